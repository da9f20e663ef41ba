HELP = "versions, and which kernels run here"


def add_arguments(parser):
    pass


def run(args) -> int:
    from lifter.info import report

    print(report())
    return 0
