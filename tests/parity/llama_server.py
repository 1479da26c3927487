"""llama.cpp's server of a GGUF file, in a process of its own: some never end in the same process.

python tests/parity/llama_server.py FILE writes the address, and ends with standard input. All is
computed in float32.
"""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def served(path: Path) -> Iterator[Callable[..., Any]]:
    """Yields a function that posts a body to a route of the server of a file."""
    command = [sys.executable, __file__, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().strip()
            assert address, "llama.cpp can't read the file"

            def post(route: str, **body: Any) -> Any:
                content = json.dumps(body).encode()
                headers = {"Content-Type": "application/json"}
                request = urllib.request.Request(address + route, content, headers)
                return json.load(urllib.request.urlopen(request, timeout=60))

            yield post
        finally:
            process.kill()


def serve(path: str) -> None:
    """Serve a file until standard input ends."""
    import xllamacpp as llama

    params = llama.CommonParams()
    params.model.path = path
    params.n_ctx, params.n_parallel, params.port, params.verbosity = 256, 1, 0, 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.warmup, params.use_jinja = False, True
    params.cache_type_k = params.cache_type_v = llama.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    server = llama.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve(sys.argv[1])
