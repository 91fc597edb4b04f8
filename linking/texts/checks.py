"""What can be refused of a job over texts before anything is loaded. No torch."""

import os
from pathlib import Path

from foundation.errors import UserError
from foundation.output import check_output
from linking.checks import REJECTS, SUMMARY
from linking.texts.contracts import TextJob


def check(job: TextJob) -> Path:
    """The file that will be written, before anything is loaded.

    Raises `UserError` for a folder or file that is not there or cannot be written, and for numbers out of range.
    """
    if (job.input is None) == (job.split is None):
        raise UserError("expected --input, or --split for the texts of the run's own dataset; one of the two")
    if job.input is not None and not os.path.isfile(job.input):
        raise UserError(f"--input {job.input}: no such file; it holds texts, one JSON object per line (docs/texts.md)")
    if job.images is not None and not os.path.isdir(job.images):
        raise UserError(f"--images-dir: there is no folder {job.images}; create it, or name another")
    output = check_output(job.output, "--output", (REJECTS, SUMMARY))
    if job.input is not None and os.path.exists(output) and os.path.samefile(output, job.input):
        raise UserError(f"--output {output}: that is the input; name another file")
    if job.annotations is not None and not (os.path.isdir(job.annotations) and not os.listdir(job.annotations)):
        raise UserError(f"--ann-dir {job.annotations}: expected an empty folder; create it, or name another")
    if job.chunk < 1 or job.top_k < 1:
        raise UserError(f"--chunk {job.chunk}, --top-k {job.top_k}: expected 1 or more")
    if job.nil_share is not None and not 0 <= job.nil_share < 1:
        raise UserError(f"--nil-share {job.nil_share}: expected a number from 0 to below 1, or dev")
    return output
