"""Contradictions between the papers' tables, each with its arithmetic: what is printed, and what our counts make of it."""

from functools import partial

from . import published, tables

TITLE = "Contradictions between the papers' tables"
COLUMNS = [
    ("case", "case", "{}"),
    ("source", "source", "{}"),
    ("printed", "printed", "{}"),
    ("arithmetic", "note", "{}"),
]
SCREEN = ("case", "source", "printed")
NOTES = ["Counts are thop's multiply-accumulates of one clip or window, by our counter, unless the row says otherwise."]


def cases(setup):
    return [(case.__name__.replace("_", " "), partial(_row, case)) for case in CASES]


def _row(case):
    source, printed, arithmetic, finding = case()
    note = f"{arithmetic}: {finding}"
    return [{"case": case.__name__.replace("_", " "), "source": source, "printed": printed, "note": note}]


def _macs(model, frames=243, convention="thop", **kwargs):
    return tables.CONVENTIONS[convention](tables._counted(model, frames, tuple(kwargs.items())))


def _g(macs):
    return f"{macs / 1e9:.2f} G"


def _m(macs):
    return f"{macs / 1e6:,.0f} M"


def frame_against_clip():
    theirs, ours = _macs("stcformer_l", convention="old thop"), _macs("poseretnet")
    return (
        published.POSERETNET,
        "430 M per frame against STCFormer's 78107 M",
        f"78107 M are a clip's: {_m(theirs)} / 243 = {_m(theirs / 243)}; PoseRetNet {_g(ours)} / 243 = {_m(ours / 243)}",
        f"STCFormer is the cheaper one: {theirs / ours:.2f} of PoseRetNet",
    )


def halves():
    ktp, small, large = (_macs(name) for name in ("ktpformer", "sasmamba", "sasmamba_large"))
    return (
        f"{published.TABLE_1}; {published.MASC}",
        "KTPFormer 69.5 G; SasMamba 1.3 G, SasMamba-L 8.56 G",
        f"{_g(ktp)} / 2 = {_g(ktp / 2)}; {_g(small)} / 2 = {_g(small / 2)}; {_g(large)} / 2 = {_g(large / 2)}",
        "halves beside whole counts: MixSTE's 139.0 G, SasMamba's own 2.60 G in its table 5",
    )


def torchprofile_beside_thop():
    hgmamba, agformer = (_macs(name) for name in ("hgmamba_b", "motionagformer_b"))
    profiled = _macs("motionagformer_b", convention="torchprofile")
    return (
        published.MASC,
        "HGMamba-B 64.5 G beside MotionAGFormer-L 78.3 G; H2OT + MotionAGFormer 38.9 G",
        f"by thop HGMamba-B {_g(hgmamba)}; with attention's products MotionAGFormer-B {_g(profiled)}, by thop {_g(agformer)}",
        "64.5 G and 38.9 G count the products that thop's rows leave out; H2OT has no public code to count again",
    )


def the_length_of_MHFormer():
    short, long = _macs("mhformer", 243), _macs("mhformer", 351)
    return (
        f"{published.HTP.format('I')}; {published.POSERETNET}",
        "MHFormer with 351 frames: 24.7 M, 9.6 G; 4812 M",
        f"243 frames: 2 x {_g(short)} = {_g(2 * short)}; 351 frames: {_g(long)}, 2 x {_g(long)} = {_g(2 * long)}",
        "size and cost are those of 243 frames, once doubled; the accuracy beside them is that of 351",
    )


def PoseFormerV2_four_ways():
    window = _macs("poseformerv2")
    return (
        f"{published.MASC}; {published.HTP.format('I')}; {published.TABLE_1}",
        "0.5 G and 528 M; 2.1 G; 128.2 G",
        f"one window {_m(window)}; 4 x = {_g(4 * window)}; x 243 windows = {_g(243 * window)}",
        "multiply-accumulates; FLOPs doubled once more; a clip's windows; FLOPs are 2 x",
    )


def windows_beside_clips():
    rows = {name: _macs(name) for name in ("pstmo", "gla_gcn", "poseformerv2", "masc_pose")}
    return (
        published.MASC,
        "MACs: P-STMO 0.7 G, GLA-GCN 1.5 G, PoseFormerV2 0.5 G, MASC-Pose 53.4 G",
        f"the last gives 243 frames, {_m(rows['masc_pose'] / 243)} each; the others one: "
        + ", ".join(_m(rows[name]) for name in ("gla_gcn", "poseformerv2")),
        "the column MACs compares a window that gives one frame with a clip; its column MACs/frame is right",
    )


def FinePOSE_at_one_step():
    call = _macs("finepose") / 243
    return (
        published.HTP.format("V"),
        "FinePOSE 0.60 G, 22.9 G and 236.2 G per frame for 1, 40 and 400 calls",
        f"with the time projected once {_m(call)}; x 40 = {_g(40 * call)}; x 400 = {_g(400 * call)}; 236.2 G / 10 = 23.6 G",
        "22.9 G is D3DP's figure in FinePOSE's row, and 23.6 G, FinePOSE's, stands in KTPFormer's",
    )


CASES = (
    frame_against_clip, halves, torchprofile_beside_thop, the_length_of_MHFormer, PoseFormerV2_four_ways, windows_beside_clips,
    FinePOSE_at_one_step,
)  # fmt: skip
