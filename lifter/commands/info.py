from lifter.info import report


def add_arguments(parser):
    pass


def run(args) -> int:
    print(report())
    return 0
