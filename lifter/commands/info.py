from lifter.info import report


def run(args) -> int:
    print(report())
    return 0
