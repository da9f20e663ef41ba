"""Checks of the options of films."""

from math import inf


def check_numbers(where, least, most=inf, **numbers):
    """ValueError that names the number that is not from `least` to `most`."""
    for name, number in numbers.items():
        if not (isinstance(number, (int, float)) and least <= number <= most):
            upto = "" if most == inf else f" and at most {most:g}"
            raise ValueError(f"{where}: {name} is {number!r}, expected a number of at least {least:g}{upto}")


def check_ranges(where, least, most=inf, **ranges):
    """ValueError that names the range that is not two numbers from `least` to `most`, the smaller one first."""
    for name, pair in ranges.items():
        numbers = isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(n, (int, float)) for n in pair)
        if not (numbers and least <= pair[0] <= pair[1] <= most):
            within = f"from {least:g} on" if most == inf else f"from {least:g} to {most:g}"
            raise ValueError(f"{where}: {name} is {pair!r}, expected two numbers {within}, the smaller one first")
