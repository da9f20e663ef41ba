from lifter import list_models


def run(args) -> int:
    models = list_models()
    width = max(map(len, models)) + 2
    for name, line in models.items():
        print(f"{name:<{width}}{line}")
    return 0
