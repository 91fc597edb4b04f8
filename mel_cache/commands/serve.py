"""The command that serves a finished run to other programs."""

import luigi

from heads.contracts import Compute
from linking.service.contracts import OPENREFINE, ServiceJob
from mel_cache.commands.features import OnProfile
from mel_cache.commands.listening import Listening
from mel_cache.commands.mentions import LinkMentions
from mel_cache.commands.parameters import Whole


class Serve(Listening):
    """Serves a finished run over HTTP until it is stopped: link mentions, find entities, reconcile (OpenRefine).

    Listens on this machine alone unless --host says otherwise, which needs a token: in the environment variable
    MEL_SERVICE_TOKEN, or in a file (--token-file). The schema is at /docs (docs/service.md).
    """

    run_folder = LinkMentions.run_folder
    port = Whole(least=0, most=65535, default=8090, description="port; 0: a free one")
    allow_origins = luigi.Parameter(
        default=",".join(OPENREFINE),
        description="comma-separated addresses of web pages that may ask, as https://example.org; by default those of "
        "OpenRefine on this machine",
    )
    queue = Whole(
        least=1, default=256, description="mentions that wait at most; more are answered 503 with Retry-After"
    )
    batch_size = Whole(least=1, most=1024, default=32, description="mentions that are linked at once at most")
    kb = LinkMentions.kb
    nil_share = LinkMentions.nil_share
    joint_below = LinkMentions.joint_below
    keep_features = luigi.BoolParameter(
        default=False, description="keep the features of the mentions in the run's cache instead of forgetting them"
    )
    wikidata_ids = luigi.BoolParameter(
        default=False, description="the KB's ids are Wikidata's: reconciled cells lead to its pages"
    )
    device = OnProfile.device
    precision = OnProfile.precision
    resources = {"device": 1}  # noqa: RUF012  # Luigi's attribute

    target = "linking.service.serve:serve"

    @property
    def origins(self) -> tuple[str, ...]:
        """Of --allow-origins."""
        return tuple(origin.strip() for origin in self.allow_origins.split(",") if origin.strip())

    def job(self) -> ServiceJob:
        return ServiceJob(
            run=self.paths.find_run(self.run_folder),
            host=self.host,
            port=self.port,
            token_file=self.token_place,
            origins=self.origins,
            queue=self.queue,
            batch=self.batch_size,
            nil_share=None if self.nil_share == "dev" else float(self.nil_share),
            joint_below=float(self.joint_below) if self.joint_below else None,
            cache=self.keep_features,
            wikidata=self.wikidata_ids,
            kb=self.kb or None,
            compute=Compute(device=self.device, precision=self.precision),
        )
