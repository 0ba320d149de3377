"""Leaves the service running on this machine and says what to try; run by scripts/serve."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from types import FrameType

from rich.console import Console

from examples.local import local_service

HINTS = """
[bold]The service is live at {url}[/bold]   (dashboard: http://127.0.0.1:8265, log: {log})

  curl {url}/health
  curl -H 'content-type: application/json' {url}/generate \\
       -d '{{"url": "https://www.youtube.com/watch?v=…", "currentTime": 30}}'
  curl {url}/progress/[italic]task_id[/italic]
  curl {url}/tasks/[italic]task_id[/italic]

Its model is gary-demo, small and our own: what it knows stands in docs/demo-model.md. Ctrl-C stops everything.
"""


def main() -> None:
    """Runs until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", nargs="?", type=Path, default=Path("serve_config.dev.yaml"))
    parser.add_argument("--port", type=int, default=8000, help="as the config's http_options say")
    options = parser.parse_args()
    console = Console()
    for stop in (signal.SIGTERM, signal.SIGINT):  # which is ignored where a script started us in the background
        signal.signal(stop, _interrupt)
    try:
        with (
            console.status("starting Ray and the service, about 20 s …"),
            local_service(options.config, options.port, Path(".data/serve.log")) as service,
        ):
            console.print(HINTS.format(url=service.base_url, log=service.log), highlight=False)
            service.process.wait()
            raise SystemExit(f"the service ended with status {service.process.returncode}; see {service.log}")
    except KeyboardInterrupt:
        console.print("stopped")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
