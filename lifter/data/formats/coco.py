"""COCO's annotations of videos: images, annotations with keypoints and v = 0, 1 or 2, categories with the joints' names.

The number of a frame is frame_id, if that is not just the image's id; or else in file_name; or else images are in order of id.
A video has the images of a video_id, or else those whose names differ in the number only. People are the annotations of the
first category that has joints, "person" if there is one, and of others with the same joints.
"""

from lifter._notices import Items

from ..detectors import Clip, detection, entries, flat, person_of, rate_of, register_detector
from ..files import image_size, integer, read_json, take
from ..frames import frames_of, has_number
from ..keys import fields, first

_NUMBERS = ("frameid", "frameindex", "frameidx", "framenumber", "frame")  # plain names (`keys.plain`) of a frame's number


@register_detector("coco", "COCO annotations of a video (JSON)", sniff=lambda file: "annotations" in file.keys)
def read(path):
    data = read_json(path)
    images = entries(take(data, "images", path), f"{path}: images")
    ids = [_id(take(image, "id", f"{path}: images")) for image in images]
    if len(set(ids)) < len(ids):
        twice = next(id for id in ids if ids.count(id) > 1)
        raise ValueError(f"{path}: images: several have the id {twice!r}, expected one for each")
    videos = _videos(data)
    frames = dict(zip(ids, _frames(images, ids, videos)))
    joints, others = _categories(data)
    found, items = {}, Items(path, "annotations")
    for number, entry in enumerate(entries(take(data, "annotations", path), f"{path}: annotations")):
        with items.one():
            where = f"{path}: annotation {number}"
            if isinstance(entry, dict) and entry.get("category_id") in others:
                raise ValueError(f"{where}: of category {entry['category_id']!r}, which has other joints")
            keypoints = flat(take(entry, "keypoints", where), f"{where}: keypoints")
            keypoints[:, 2] = keypoints[:, 2] > 0
            image = take(frames, _id(take(entry, "image_id", where)), f"{where}: images")
            found.setdefault(image[0], []).append(detection(image[1], person_of(entry), keypoints))
    items.end()
    sizes, rates, usual = {}, dict(videos.values()), rate_of(data["info"]) if isinstance(data.get("info"), dict) else None
    if len(videos) == 1:
        rates[""] = next(iter(rates.values()))
    for id, image in zip(ids, images):
        sizes.setdefault(frames[id][0], []).append((image.get("width"), image.get("height")))
    return [
        Clip(found.get(video, []), video, _size(some, path), rates.get(video) or usual, joints)
        for video, some in sizes.items()
    ]


def _id(value):
    """An id, a number if it is one: 12, 12.0 and "12" are the same."""
    number = integer(value)
    return str(value) if number is None else number


def _frames(images, ids, videos):
    """(video, frame) of each image."""
    groups = {}
    for own, image in zip(ids, images):
        id = image.get("video_id", image.get("vid_id"))
        groups.setdefault(None if id is None else str(id), []).append((own, image))
    found = {}
    for id, group in groups.items():
        numbers = [integer(first(fields(image), _NUMBERS)) for _, image in group]
        if None not in numbers and numbers != [own for own, _ in group]:
            told = [("", number) for number in numbers]
        else:
            files = [image.get("file_name") for _, image in group]
            told = frames_of(files, "images") if all(map(has_number, files)) else []
        if len(set(told)) < len(group):  # nothing that tells them apart
            group = sorted(group, key=lambda each: (isinstance(each[0], str), each[0]))
            told = [("", number) for number in range(len(group))]
        title = videos.get(id, (id, None))[0] if len(groups) > 1 else ""
        for (own, _), (video, frame) in zip(group, told):
            found[own] = (video if id is None else title), frame
    return [found[id] for id in ids]


def _videos(data):
    """{id: (name, frames per second)}, as texts."""
    videos = data.get("videos")
    videos = [video for video in videos if isinstance(video, dict)] if isinstance(videos, list) else []
    return {str(video.get("id")): (str(video.get("name", video.get("id"))), rate_of(video)) for video in videos}


def _categories(data):
    """(the names of people's joints, None if there are none; the ids of categories with other joints)."""
    categories = data.get("categories")
    known = [each for each in categories if isinstance(each, dict)] if isinstance(categories, list) else []
    known = [each for each in known if isinstance(each.get("keypoints"), list) and each["keypoints"]]
    known.sort(key=lambda each: each.get("name") != "person")
    if not known:
        return None, ()
    joints = known[0]["keypoints"]
    return tuple(map(str, joints)), [each["id"] for each in known if each["keypoints"] != joints and "id" in each]


def _size(sizes, path):
    if any(size != sizes[0] for size in sizes):
        raise ValueError(f"{path}: images of different sizes, expected the frames of one video")
    width, height = sizes[0]
    return image_size(width, height, path) if width and height else None
