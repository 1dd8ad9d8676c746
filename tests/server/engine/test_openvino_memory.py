from pathlib import Path

from bosal_server.engine.openvino_memory import available_bytes

MEMINFO = "MemTotal:  16000 kB\nMemFree:  100 kB\nMemAvailable:   8000 kB\n"


def group(folder: Path, limit: str, used: int, inactive: int = 0) -> Path:
    folder.mkdir()
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\nfile 7\ninactive_file {inactive}\n")
    return folder


def test_the_smaller_of_system_and_group_counts(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(MEMINFO)
    roomy = group(tmp_path / "roomy", "99000000", 1000)
    tight = group(tmp_path / "tight", "3000000", 2_500_000, inactive=100_000)
    assert available_bytes(meminfo, roomy) == 8000 * 1024
    assert available_bytes(meminfo, tight) == 600_000


def test_a_group_without_a_limit_does_not_count(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(MEMINFO)
    assert available_bytes(meminfo, group(tmp_path / "free", "max", 1)) == 8000 * 1024
    assert available_bytes(meminfo, tmp_path / "none") == 8000 * 1024


def test_a_group_over_its_limit_leaves_nothing(tmp_path: Path) -> None:
    over = group(tmp_path / "over", "1000", 2000)
    assert available_bytes(tmp_path / "none", over) == 0


def test_a_system_that_says_nothing_is_unknown(tmp_path: Path) -> None:
    assert available_bytes(tmp_path / "none", tmp_path / "none") is None
