"""Runs in a Kubernetes cluster: each is a Job, or a TrainJob of Kubeflow Trainer. Pods share the folder of runs.

The process is the one of a run on this machine; it reads and writes the run's folder. The server creates the Job,
follows the events in the folder, and asks the cluster whether the Job has ended. A pod that is lost is replaced by the
Job's controller, and the run continues at its latest checkpoint.
"""

from __future__ import annotations

import copy
import logging
import math
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from layerserve_server.errors import NotTrainableError, safe_text
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.training.request import RunRequest

if TYPE_CHECKING:
    from lightkube import Client

logger = logging.getLogger(__name__)

#: Module of a run's process.
MODULE = "layerserve_server.training.program.main"
#: Label of the Jobs, with the run's id.
RUN_LABEL = "layerserve.io/run"
#: Port at which the workers of a run meet, on the pod of the first one.
RENDEZVOUS_PORT = 29400
#: Time between two looks into a run's folder, and between two questions to the cluster, in seconds.
CHECK_SECONDS, ASK_SECONDS = 0.05, 1.0
#: Time for the Job of an earlier attempt to go away, in seconds.
GONE_SECONDS = 120.0
#: API version and plural name of the kinds that a template may have.
KINDS = {"Job": ("batch", "v1", "jobs"), "TrainJob": ("trainer.kubeflow.org", "v1alpha1", "trainjobs")}


class TemplateError(ValueError):
    """The template of Jobs can't be used."""


class Cluster:
    """The cluster that this server may create Jobs in."""

    def __init__(self, template: Path, client: Client | None = None) -> None:
        """`template` is the manifest of a Job or TrainJob, whose name, size and command are set for each run.

        Default for `client`: the one of the pod's service account, or of KUBECONFIG. Raises TemplateError if the
        template or the configuration of the client is invalid, or lightkube isn't installed.
        """
        try:
            import lightkube
            from lightkube.generic_resource import create_namespaced_resource
        except ImportError:
            raise TemplateError("training_backend: 'kubernetes' requires lightkube: pip install lightkube") from None
        self._template = _read_template(template)
        kind = self._template["kind"]
        self.resource = create_namespaced_resource(KINDS[kind][0], KINDS[kind][1], kind, KINDS[kind][2])
        try:
            self.client = client or lightkube.Client()
        except lightkube.ConfigError as error:
            raise TemplateError(f"training_backend: no cluster is configured: {error}") from error

    def process(self, folder: Path) -> ClusterProcess:
        """Returns the handle of the Job of the run in a folder."""
        return ClusterProcess(folder, self)

    def manifest(self, folder: Path, workers: int, environment: Mapping[str, str]) -> dict[str, Any]:
        """Returns the manifest of a run's Job."""
        made = copy.deepcopy(self._template)
        name = job_name(folder)
        made["metadata"] = {**made.get("metadata", {}), "name": name}
        made["metadata"]["labels"] = {**made["metadata"].get("labels", {}), RUN_LABEL: folder.name}
        variables = [{"name": key, "value": value} for key, value in environment.items()]
        if made["kind"] == "TrainJob":
            trainer = made["spec"].setdefault("trainer", {})
            trainer["numNodes"] = workers
            # The runtime sets torchrun's number of nodes and the address of the first one.
            trainer["command"] = ["torchrun", "--module", MODULE] if workers > 1 else ["python", "-m", MODULE]
            trainer["args"] = [str(folder)]
            trainer["env"] = [*trainer.get("env", ()), *variables]
            return made
        spec = made["spec"]
        spec["completionMode"], spec["completions"], spec["parallelism"] = "Indexed", workers, workers
        pod = spec["template"]["spec"]
        container = pod["containers"][0]
        container["env"] = [*container.get("env", ()), *variables]
        if workers == 1:
            container["command"], container["args"] = ["python", "-m", MODULE], [str(folder)]
        else:
            container["command"] = ["torchrun"]
            container["args"] = [
                f"--nnodes={workers}",
                "--nproc-per-node=1",
                "--max-restarts=3",
                "--rdzv-backend=c10d",
                f"--rdzv-id={folder.name}",
                f"--rdzv-endpoint={name}-0.{pod['subdomain']}:{RENDEZVOUS_PORT}",
                "--module",
                MODULE,
                str(folder),
            ]
        return made


def job_name(folder: Path) -> str:
    """Returns the name of the Job of the run in a folder."""
    return f"layerserve-run-{folder.name}"


def _read_template(path: Path) -> dict[str, Any]:
    try:
        template = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise TemplateError(f"training_job: {path} can't be read: {safe_text(str(error), 300)}") from error
    kind = template.get("kind") if isinstance(template, dict) else None
    if kind not in KINDS:
        raise TemplateError(f"training_job: {path} has kind {kind!r}, expected {' or '.join(KINDS)}")
    if not isinstance(template.get("spec"), dict):
        raise TemplateError(f"training_job: {path} has no spec")
    if kind == "TrainJob":
        reference = template["spec"].get("runtimeRef")
        if not isinstance(reference, dict) or not reference.get("name"):
            raise TemplateError(
                f"training_job: {path} names no runtime in spec.runtimeRef, expected one, such as "
                "{kind: ClusterTrainingRuntime, name: torch-distributed}"
            )
    if kind == "Job":
        pod = template["spec"].get("template", {}).get("spec", {})
        if not pod.get("containers") or not pod.get("subdomain"):
            raise TemplateError(
                f"training_job: {path} has no container or no subdomain in spec.template.spec, expected both: a run "
                "with several workers finds its first pod by the subdomain"
            )
    return cast(dict[str, Any], template)


class ClusterProcess:
    """The Job of the run in a folder. See RunProcess."""

    __slots__ = ("_asked_at", "_cluster", "_condition", "_folder", "_living")

    survives_stop = True
    pid = None
    out_of_space = False
    #: A Job may fail since its pods were lost, so that it may succeed if it is resumed.
    ended_by_itself = False

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self._folder = folder
        self._cluster = cluster
        self._living: bool | None = None
        self._asked_at = -math.inf
        #: Reason and message of the condition with which the Job has failed.
        self._condition = ""

    def start(
        self,
        command: Sequence[str],
        threads: int,
        jobs: Jobs | None = None,
        more: Mapping[str, str] | None = None,
    ) -> None:
        """Creates the Job, after that of an earlier attempt has gone. Raises NotTrainableError if that is refused."""
        environment = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **(more or {})}
        workers = RunRequest.read(self._folder).workers
        manifest = self._cluster.manifest(self._folder, workers, environment)
        self._delete(grace=None)
        end = time.monotonic() + GONE_SECONDS
        while self._found() is not None and time.monotonic() < end:
            time.sleep(CHECK_SECONDS)
        self._condition = ""
        try:
            self._cluster.client.create(self._cluster.resource.from_dict(manifest))
        except Exception as error:
            text = f"the cluster refuses the Job of the run: {safe_text(str(error), 300)}"
            raise NotTrainableError(text) from error
        self._living, self._asked_at = True, time.monotonic()
        logger.info("created a Job for the run", extra={"run": self._folder.name, "job": job_name(self._folder)})

    def forget(self) -> None:
        """Deletes the Job, which has ended."""
        self._delete(grace=None)
        self._living = None

    @property
    def lives(self) -> bool:
        """Whether the Job exists and hasn't ended. A cluster that doesn't answer leaves it as it was, or alive."""
        try:
            found = self._found()
        except Exception as error:
            logger.warning("can't ask the cluster about a run: %s", error, extra={"run": self._folder.name})
            return self._living is not False
        self._asked_at = time.monotonic()
        self._living = found is not None and not self._has_ended(found)
        return self._living

    def wait(self) -> bool:
        """Waits CHECK_SECONDS. Asks the cluster every ASK_SECONDS."""
        time.sleep(CHECK_SECONDS)
        if self._living is not None and time.monotonic() - self._asked_at < ASK_SECONDS:
            return self._living
        return self.lives

    def signal(self, number: signal.Signals) -> None:
        """Deletes the Job on SIGTERM and SIGKILL, whose pods then get SIGTERM. Other signals can't be sent.

        A run that is to pause or to stop early reads that from its folder.
        """
        if number in (signal.SIGTERM, signal.SIGKILL):
            self._delete(grace=0 if number == signal.SIGKILL else None)
            self._asked_at = -math.inf

    @property
    def death(self) -> str:
        """Reason why the Job ended without a result."""
        return f"the Job of the run failed: {self._condition}" if self._condition else "the Job of the run was deleted"

    def _found(self) -> Any:
        from lightkube import ApiError

        try:
            return self._cluster.client.get(self._cluster.resource, job_name(self._folder))
        except ApiError as error:
            if error.status.code == 404:
                return None
            raise

    def _has_ended(self, job: Any) -> bool:
        for condition in (job.status or {}).get("conditions", ()):
            if condition.get("status") == "True" and condition.get("type") in ("Complete", "Failed"):
                if condition["type"] == "Failed":
                    self._condition = f"{condition.get('reason', '')}: {condition.get('message', '')}"
                return True
        return False

    def _delete(self, grace: int | None) -> None:
        from lightkube import ApiError
        from lightkube.types import CascadeType

        client, name = self._cluster.client, job_name(self._folder)
        try:
            client.delete(self._cluster.resource, name, grace_period=grace, cascade=CascadeType.FOREGROUND)
        except ApiError as error:
            if error.status.code != 404:
                logger.warning("the cluster doesn't delete a Job: %s", error, extra={"job": name})
        except Exception as error:  # the errors of HTTP, of whatever release of the client's library
            logger.warning("can't ask the cluster to delete a Job: %s", error, extra={"job": name})
