"""AlphaPose's results, and COCO's: a list of image_id, keypoints, perhaps idx."""

from lifter._notices import Items

from ..detectors import clips_of, entries, flat, person_of, register_detector, together
from ..files import read_json, take
from ..frames import split_name


@register_detector("alphapose", "AlphaPose's results, or COCO's (JSON list)", sniff=lambda file: "image_id" in file.first_keys)
def read(path):
    data = entries(read_json(path), path)
    items, images, found, keypoints = Items(path), [], [], together(data)
    for number, entry in enumerate(data):
        with items.one():
            where = f"{path}: entry {number}"
            image = take(entry, "image_id", where)
            where = f"{where} (image_id {image!r})"
            split_name(image, where)
            pose = flat(take(entry, "keypoints", where), f"{where}: keypoints") if keypoints is None else keypoints[number]
            found.append((person_of(entry), pose))
            images.append(image)
    items.end()
    return clips_of(images, found, path)
