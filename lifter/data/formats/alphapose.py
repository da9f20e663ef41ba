"""AlphaPose's results, and COCO's: a list of image_id, keypoints, perhaps idx."""

from ..detectors import detection, entries, flat, frame_number, register_detector
from ..files import read_json, take


@register_detector("alphapose", "AlphaPose's results, or COCO's (JSON list)", sniff=lambda file: "image_id" in file.first_keys)
def read(path):
    detections = []
    for number, entry in enumerate(entries(read_json(path), path)):
        where = f"{path}: entry {number}"
        image = take(entry, "image_id", where)
        where = f"{where} (image_id {image!r})"
        keypoints = flat(take(entry, "keypoints", where), f"{where}: keypoints")
        person = entry.get("idx", entry.get("track_id"))
        detections.append(detection(frame_number(image, where), person, keypoints))
    return detections, None
