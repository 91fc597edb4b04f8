"""Serves a finished run until a signal ends the process."""

from foundation import logs
from linking.linker import Linker
from linking.service import server
from linking.service.access import access, loopback
from linking.service.app import make
from linking.service.contracts import ServiceJob
from linking.service.desk import Desk
from linking.service.reconcile import Reconciliation


def serve(job: ServiceJob) -> None:
    """Serve a run until SIGINT or SIGTERM.

    Raises `UserError` where the address cannot be had, others could reach the service without a token, or the run
    cannot be linked with.
    """
    allowed = access(job.host, job.token_file, job.origins)
    with server.bound(job.host, job.port) as listener:
        linker = Linker.load(job.run, job.compute.device, job.compute.precision, job.nil_share, job.cache)
        if job.kb:
            linker.against(job.kb)
        if job.joint_below is not None:
            linker.ask_joint_below(job.joint_below)
        desk = Desk(lambda: linker, linker.limits, job.queue, job.batch)
        app = make(desk, allowed, Reconciliation(desk, job.wikidata, job.origins))
        for note in linker.notes:
            logs.notice(note)
        server.run(app, listener, address_line(job.host, listener.getsockname()[1]))


def address_line(host: str, port: int) -> str:
    """Where the service is, and who can reach it."""
    who = "this machine alone" if loopback(host) else "whoever has the token"
    return f"{server.address(host, port)} for {who}; schema at /docs, OpenRefine at /reconcile (Ctrl-C stops it)"
