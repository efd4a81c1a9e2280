"""`tinyfaces models`."""

from rich.console import Console
from rich.table import Table

from tinyfaces.cli.options import app, command
from tinyfaces.weights import models as shipped
from tinyfaces.weights import second_stage


@command(app)
def models() -> None:
    """List the shipped models."""
    table = Table("model", "file", "GMAC at 640x480", "parameters", "AP on the dev split, by face height", "trained on")
    for record in shipped().values():
        table.add_row(
            record.name, f"{record.bytes / 1e6:.1f} MB", f"{record.gmac:.2f}", f"{record.parameters / 1e6:.2f} M",
            "\n".join(f"{band}: {ap:.3f}" for band, ap in record.ap.items()), record.training_data,
        )  # fmt: skip
    console = Console(highlight=False)
    console.print(table)
    second = second_stage()
    console.print(
        f"second stage: {second.gmac:.3f} GMAC per candidate, {second.parameters / 1e6:.2f} M parameters, "
        f"for the proposals of {', '.join(second.rules)} detectors; generator ({second.variant}): {second.restoring_gmac:.3f} "
        f"GMAC per face, {second.restoring_parameters / 1e6:.2f} M parameters; both trained on {second.training_data}"
    )
