"""COCO's annotations: images in order of frame_id, or of id, and keypoints with v = 0, 1 or 2."""

from ..detectors import detection, entries, flat, register_detector, whole_number
from ..files import image_size, read_json, take


@register_detector("coco", "COCO annotations of a video (JSON)", sniff=lambda file: "annotations" in file.keys)
def read(path):
    data = read_json(path)
    images = entries(take(data, "images", path), f"{path}: images")
    ids = [(whole_number(image, "frame_id", 0, path), whole_number(image, "id", None, path)) for image in images]
    order = {id: number for number, (_, id) in enumerate(sorted(ids))}
    sizes = [[image.get("width"), image.get("height")] for image in images]
    if any(size != sizes[0] for size in sizes):
        raise ValueError(f"{path}: images of different sizes, expected the frames of one video")
    detections = []
    for number, entry in enumerate(entries(take(data, "annotations", path), f"{path}: annotations")):
        where = f"{path}: annotation {number}"
        keypoints = flat(take(entry, "keypoints", where), f"{where}: keypoints")
        keypoints[:, 2] = keypoints[:, 2] > 0
        frame = take(order, whole_number(entry, "image_id", None, where), f"{where}: images")
        detections.append(detection(frame, entry.get("track_id"), keypoints))
    return detections, None if not sizes or None in sizes[0] else image_size(*sizes[0], path)
