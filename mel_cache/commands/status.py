"""The command that says what there is, and what the two everyday commands would do now."""

import luigi

from experiments import jobs
from foundation import logs
from foundation.errors import UserError
from foundation.tables import terminal_width
from mel_cache.commands.features import ExtractFeatures, OnProfile
from mel_cache.commands.heads import TrainHead
from mel_cache.commands.task import Tool
from report import status


class Status(Tool, OnProfile):
    """Says what is extracted, trained and searched, with sizes and rates, and what is still to do.

    Rates are those of the last extraction here. What is to do: what ExtractFeatures and TrainHead would run now.
    """

    methods = luigi.Parameter(
        default="", description="comma-separated methods to say it for; empty: those of the papers, and fused"
    )

    def act(self) -> None:
        logs.say(
            f"{status.text(self.paths, terminal_width())}\n\nwith dataset {self.dataset} and profile {self.profile}"
        )
        logs.say(f"  ExtractFeatures: {self.clone(ExtractFeatures).to_do()}")
        for method in filter(None, self.methods.split(",")) if self.methods else (*jobs.FOUR, "fused"):
            try:
                jobs.head_spec(method, "{}", self.profile_content)
            except UserError as error:
                logs.say(f"  TrainHead --method {method}: not with this profile ({error})")
                continue
            logs.say(f"  TrainHead --method {method}: {self.clone(TrainHead, method=method).to_do()}")
