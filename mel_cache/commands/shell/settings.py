"""Luigi's settings, where no luigi.cfg, environment or option says otherwise; and the exit codes."""

from collections.abc import Mapping

import luigi.configuration

REFUSED = 2
"""Exit code of a command that is not run: an unknown command or option, a wrong value, a file that is not there."""
FAILED = 30
"""Exit code of a command one of whose tasks failed, or was not run because another failed."""

_FAILURES = (
    "already_running",
    "missing_data",
    "not_run",
    "scheduling_error",
    "task_failed",
    "unhandled_exception",
)
SETTINGS: Mapping[str, Mapping[str, str]] = {
    "core": {
        "local_scheduler": "true",
        "log_level": "WARNING",
        # Two runs of one command divide the work in the cache; Luigi itself would refuse the second.
        "no_lock": "true",
        # Tasks that run side by side, except those that need the device (below).
        "workers": "2",
    },
    "worker": {"check_complete_on_run": "true"},
    # At most one extraction or training at a time on the device.
    "resources": {"device": "1"},
    "retcode": dict.fromkeys(_FAILURES, str(FAILED)),
}
"""By section and name of luigi.cfg."""
SIDE_BY_SIDE = 8
"""Tasks that run side by side where a cluster does the work; Ray lets those wait that find no device free."""
_SCHEDULER = ("scheduler_url", "scheduler_host", "default-scheduler-url", "default-scheduler-host")


def apply(scheduler: bool = False, cluster: bool = False) -> None:
    """Set what the configuration leaves open.

    A scheduler's address, in the configuration or as an option (`scheduler`), means that it is used. cluster: whether
    trainings run on a Ray cluster.
    """
    config = luigi.configuration.get_config()
    central = scheduler or any(config.has_option("core", name) for name in _SCHEDULER)
    if central and not config.has_option("core", "local_scheduler"):
        config.set("core", "local_scheduler", "false")
    if cluster and not config.has_option("core", "workers"):
        config.set("core", "workers", str(SIDE_BY_SIDE))
    for section, values in SETTINGS.items():
        for name, value in values.items():
            if not config.has_option(section, name):
                config.set(section, name, value)
