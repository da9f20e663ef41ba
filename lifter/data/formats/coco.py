"""COCO's annotations of videos: images, annotations with keypoints and v = 0, 1 or 2, categories with the joints' names.

The number of a frame is frame_id, if that is not just the image's id; or else in file_name; or else images are in order of id.
A video has the images of a video_id, or else those whose names differ in the number only.
"""

from lifter._notices import Items

from ..detectors import Clip, detection, entries, flat, person_of, rate_of, register_detector, whole_number
from ..files import image_size, read_json, take
from ..frames import frames_of, has_number


@register_detector("coco", "COCO annotations of a video (JSON)", sniff=lambda file: "annotations" in file.keys)
def read(path):
    data = read_json(path)
    images = entries(take(data, "images", path), f"{path}: images")
    ids = [whole_number(image, "id", None, path) for image in images]
    videos = _videos(data)
    frames = dict(zip(ids, _frames(images, videos)))
    found, items = {}, Items(path, "annotations")
    for number, entry in enumerate(entries(take(data, "annotations", path), f"{path}: annotations")):
        with items.one():
            where = f"{path}: annotation {number}"
            keypoints = flat(take(entry, "keypoints", where), f"{where}: keypoints")
            keypoints[:, 2] = keypoints[:, 2] > 0
            image = take(frames, whole_number(entry, "image_id", None, where), f"{where}: images")
            found.setdefault(image[0], []).append(detection(image[1], person_of(entry), keypoints))
    items.end()
    sizes, joints, rates = {}, _joints(data), dict(videos.values())
    if len(videos) == 1:
        rates[""] = next(iter(rates.values()))
    for image in images:
        size = image.get("width"), image.get("height")
        sizes.setdefault(frames[image["id"]][0], []).append(size)
    return [Clip(found.get(video, []), video, _size(some, path), rates.get(video), joints) for video, some in sizes.items()]


def _frames(images, videos):
    """(video, frame) of each image."""
    groups = {}
    for image in images:
        id = image.get("video_id", image.get("vid_id"))
        groups.setdefault(None if id is None else str(id), []).append(image)
    found = {}
    for id, group in groups.items():
        numbers = [image.get("frame_id") for image in group]
        if all(type(number) is int for number in numbers) and numbers != [image["id"] for image in group]:
            told = [("", number) for number in numbers]
        else:
            files = [image.get("file_name") for image in group]
            told = frames_of(files, "images") if all(map(has_number, files)) else []
        if len(set(told)) < len(group):  # nothing that tells them apart
            group = sorted(group, key=lambda image: image["id"])
            told = [("", number) for number in range(len(group))]
        title = videos.get(id, (id, None))[0] if len(groups) > 1 else ""
        for image, (video, frame) in zip(group, told):
            found[image["id"]] = (video if id is None else title), frame
    return [found[image["id"]] for image in images]


def _videos(data):
    """{id: (name, frames per second)}, as texts."""
    videos = data.get("videos")
    videos = [video for video in videos if isinstance(video, dict)] if isinstance(videos, list) else []
    return {str(video.get("id")): (str(video.get("name", video.get("id"))), rate_of(video)) for video in videos}


def _joints(data):
    """The names of the joints, those of people if there are others."""
    categories = data.get("categories")
    known = [each for each in categories if isinstance(each, dict)] if isinstance(categories, list) else []
    known = [each for each in known if isinstance(each.get("keypoints"), list) and each["keypoints"]]
    known.sort(key=lambda each: each.get("name") != "person")
    return tuple(map(str, known[0]["keypoints"])) if known else None


def _size(sizes, path):
    if any(size != sizes[0] for size in sizes):
        raise ValueError(f"{path}: images of different sizes, expected the frames of one video")
    size = sizes[0]
    return None if None in size else image_size(*size, path)
