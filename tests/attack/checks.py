"""All checks, in the order of the promises."""

from attack import memory, neighbours, statuses, streams, watches

CHECKS = [*watches.CHECKS, *streams.CHECKS, *memory.CHECKS, *neighbours.CHECKS, *statuses.CHECKS]
