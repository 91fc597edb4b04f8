"""What can be refused of a job before anything is loaded. No torch."""

import os
from pathlib import Path

from foundation.errors import UserError
from foundation.output import check_output
from linking.contracts import LinkJob

REJECTS = ".rejects.jsonl"
SUMMARY = ".summary.json"


def check(job: LinkJob) -> Path:
    """The file that will be written, before anything is loaded.

    Raises `UserError` for a folder or file that is not there or cannot be written, and for numbers out of range.
    """
    source = job.input.absolute()
    for folder, option in ((source.parent, "--input"), (job.images_folder, "--images-dir")):
        if not os.path.isdir(folder):
            raise UserError(f"{option}: there is no folder {folder}; create it, or name another")
    output = check_output(job.output, "--output", (REJECTS, SUMMARY))
    if not os.path.isfile(source):
        raise UserError(
            f"--input {source}: no such file; it holds mentions, one JSON object per line (docs/linking.md)"
        )
    if job.kb_extra is not None and not os.path.isfile(job.kb_extra):
        raise UserError(
            f"--kb-extra {job.kb_extra}: no such file; it holds entities, one JSON object per line (docs/linking.md)"
        )
    written = [output, *(output.with_name(output.name + ending) for ending in (REJECTS, SUMMARY))]
    for read, option in ((source, "the input"), (job.kb_extra, "--kb-extra")):
        if read and any(os.path.exists(path) and os.path.samefile(path, read) for path in written):
            raise UserError(f"--output {output}: that is {option}; name another file")
    if job.chunk < 1 or job.top_k < 1:
        raise UserError(f"--chunk {job.chunk}, --top-k {job.top_k}: expected 1 or more")
    if job.nil_share is not None and not 0 <= job.nil_share < 1:
        raise UserError(f"--nil-share {job.nil_share}: expected a number from 0 to below 1, or dev")
    if job.joint_below is not None and not 0 < job.joint_below <= 1:
        raise UserError(f"--joint-below {job.joint_below}: expected a number above 0, at most 1")
    return output
