"""All checks, in the order of the promises."""

from attacks import memory, neighbours, statuses, streams, watches

from attack import draining, http_requests, lists, model_files, restart, services, tokens, trainings

CHECKS = [
    *watches.CHECKS,
    *draining.CHECKS,
    *streams.CHECKS,
    *memory.CHECKS,
    *neighbours.CHECKS,
    *lists.CHECKS,
    *tokens.CHECKS,
    *http_requests.CHECKS,
    *statuses.CHECKS,
    *restart.CHECKS,
    *trainings.CHECKS,
    *services.CHECKS,
    *model_files.CHECKS,
]
