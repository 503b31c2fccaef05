from llmproxy.reconstruct.embeddings import Machine, read_request
from llmproxy.reconstruct.turn import Usage


def test_a_request_is_no_conversation() -> None:
    reading = read_request({"model": "m", "input": ["a", "b"], "dimensions": 3, "user": None})
    assert (reading.model, reading.input, reading.options) == ("m", (), {"dimensions": 3})


def test_a_response_without_its_vectors() -> None:
    machine = Machine()
    machine.whole(
        {
            "object": "list",
            "model": "m",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.5]}, {"index": 1, "embedding": "AAAA"}, 7],
            "usage": {"prompt_tokens": 5, "total_tokens": 5},
        }
    )
    reading = machine.finish()
    assert reading.response_json["data"] == [{"object": "embedding", "index": 0}, {"index": 1}, None]
    assert (reading.resolved_model, reading.usage, reading.outputs) == ("m", Usage(5), ())
    assert (reading.finished, reading.error) == (True, None)


def test_an_error_with_status_200() -> None:
    machine = Machine()
    machine.whole({"error": "m"})
    assert machine.finish().error == "m"


def test_a_stream_is_noted() -> None:
    machine = Machine()
    assert not machine.event("", {})
    machine.done()
    assert machine.finish().notes == ("embeddings came as a stream",)
