"""What is refused before a byte is fetched, and which format is taken: yt-dlp's own selection, without a network."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from yt_dlp import YoutubeDL

from gary.sources.download import Refused, options
from gary.sources.protocol import MESSAGES, Downloaded, Job


def make_job(site: str = "youtube", start_s: float = 10.0) -> Job:
    return Job.model_validate(
        {
            "site": site,
            "url": "https://www.youtube.com/watch?v=dQw4w9WgXcQ",
            "start_s": start_s,
            "job_dir": Path("job"),
            "download_bytes": 1000,
            "source_duration_s": 600,
            "timeout_s": 30,
            "parent_pid": 1,
            "hosts": ["www.youtube.com"],
        }
    )


@pytest.mark.parametrize(
    ("info", "code"),
    [
        ({"duration": 60, "live_status": "is_live"}, "live"),
        ({"duration": 60, "is_live": True}, "live"),
        ({"live_status": "is_upcoming"}, "live"),
        ({"duration": 60, "live_status": "post_live"}, "live"),
        ({"duration": 600.5}, "too_long"),
        ({"duration": None}, "unsupported"),
        ({"duration": 10.0}, "past_end"),
        ({"duration": 9}, "past_end"),
    ],
)
@pytest.mark.parametrize("incomplete", [{"format_id"}, False])
def test_a_video_that_is_not_taken_is_refused_by_its_description(
    info: dict[str, Any], code: str, incomplete: Any
) -> None:
    """Live, too long, of unknown length, or over before the start: refused with its code, before and after a format
    is chosen."""
    with pytest.raises(Refused) as caught:
        options(make_job(), print)["match_filter"](info, incomplete=incomplete)
    assert caught.value.code == code


@pytest.mark.parametrize("info", [{"duration": 10.01}, {"duration": 600, "live_status": "was_live"}])
def test_a_video_that_is_taken_passes(info: dict[str, Any]) -> None:
    """A start just before the end, the greatest length, and a broadcast that is over are fetched."""
    assert options(make_job(), print)["match_filter"](info, incomplete=False) is None


def test_a_list_is_refused() -> None:
    """What is not one recording is refused as soon as it shows."""
    with pytest.raises(Refused) as caught:
        options(make_job(), print)["match_filter"]({"playlist": "a list"}, incomplete=True)
    assert caught.value.code == "unsupported"


@pytest.mark.parametrize(
    ("info", "code"),
    [({"duration": None}, "unsupported"), ({"direct": True, "protocol": "ftp"}, "unsupported")],
)
def test_a_direct_link_has_to_be_the_file_itself(info: dict[str, Any], code: str) -> None:
    """A page, a manifest or another protocol behind a direct link is refused; an unknown length is not."""
    check = options(make_job("direct"), print)["match_filter"]
    check({"direct": True, "duration": None, "protocol": "http"}, incomplete=False)
    with pytest.raises(Refused) as caught:
        check(info, incomplete=False)
    assert caught.value.code == code


def _audio(format_id: str, protocol: str, abr: int = 128) -> dict[str, Any]:
    url = f"https://media.example.org/{format_id}"
    return {"format_id": format_id, "url": url, "ext": "m4a", "protocol": protocol, "abr": abr, "vcodec": "none"}


_ITAG_18 = {"format_id": "18", "url": "https://media.example.org/18", "ext": "mp4", "protocol": "https"}


@pytest.mark.parametrize(
    ("site", "formats", "chosen"),
    [
        ("youtube", [_ITAG_18, _audio("hls", "m3u8_native", 256), _audio("140", "https")], "140"),
        ("youtube", [_ITAG_18, _audio("hls", "m3u8_native")], "hls"),
        ("youtube", [_ITAG_18], "18"),
        ("soundcloud", [_audio("hls_aac_160k", "m3u8_native", 160), _audio("http_mp3_1_0", "http")], "http_mp3_1_0"),
        ("soundcloud", [_audio("http_mp3_1_0_preview", "http"), _audio("hls_opus_0_0", "m3u8_native")], "hls_opus_0_0"),
    ],
)
def test_the_format_is_whole_audio_over_plain_https_if_there_is_any(
    site: str, formats: list[dict[str, Any]], chosen: str
) -> None:
    """Plain https before fragments, audio before video, and never a preview."""
    settings = options(make_job(site), print)
    info: dict[str, Any] = {
        "id": "x",
        "title": "x",
        "extractor": site,
        "extractor_key": site,
        "duration": 60,
        "formats": formats,
    }
    with YoutubeDL(settings) as downloader:
        assert downloader.process_ie_result(info, download=False)["format_id"] == chosen


def test_too_many_bytes_are_refused_when_announced_and_when_counted() -> None:
    """The budget holds for the size that a server announces and for what arrives where it announces none; within it
    progress is reported, and the last report is never left out."""
    reports: list[Downloaded] = []
    (hook,) = options(make_job(), reports.append)["progress_hooks"]
    hook({"status": "downloading", "downloaded_bytes": 10, "total_bytes": 1000})
    hook({"status": "downloading", "downloaded_bytes": 20, "total_bytes": 1000})
    hook({"status": "finished", "downloaded_bytes": 1000, "total_bytes": 1000})
    assert [report.downloaded_bytes for report in reports] == [10, 1000]
    for downloaded_bytes, total_bytes in [(10, 1001), (1001, None)]:
        with pytest.raises(Refused) as caught:
            hook({"status": "downloading", "downloaded_bytes": downloaded_bytes, "total_bytes": total_bytes})
        assert caught.value.code == "too_large"


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"null",
        b'{"kind": "done", "title": null, "duration_s": null, "file_name": "/etc/passwd"}',
        b'{"kind": "done", "title": null, "duration_s": NaN}',
        b'{"kind": "done", "title": null, "duration_s": -1}',
        b'{"kind": "failed", "code": "internal", "detail": ""}',
        b'{"kind": "progress", "downloaded_bytes": -1, "total_bytes": null}',
    ],
)
def test_a_message_out_of_bounds_is_no_message(line: bytes) -> None:
    """The parent takes from the fetching process only values of the protocol, within its bounds."""
    with pytest.raises(ValidationError):
        MESSAGES.validate_json(line)


NEVER = {
    "nocheckcertificate",
    "enable_file_urls",
    "netrc_cmd",
    "default_search",
    "writelink",
    "download_ranges",
    "prefer_insecure",
    "legacyserverconnect",
    "usenetrc",
}


@pytest.mark.parametrize("site", ["youtube", "soundcloud", "direct"])
def test_dangerous_options_are_never_set(site: str) -> None:
    """TLS is always verified, on the first attempt and on any other; no files, programs or searches by a link."""
    chosen = options(make_job(site), print)
    assert not any(chosen.get(name) for name in NEVER)
    assert chosen["external_downloader"] == {"default": "native"}
    assert chosen["postprocessors"] == []
    with YoutubeDL(chosen) as downloader:
        assert not any(downloader.params.get(name) for name in NEVER)
