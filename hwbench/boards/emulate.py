"""Build the file system of an emulated Raspberry Pi 4, by apt and pip alone, without being root.

What runs there are the genuine aarch64 binaries of Debian and PyPI under ``qemu-aarch64 -cpu
cortex-a72``. The files in which they look for a Cortex-A72 are a façade of ours and say so; they
feed parsers and never a result (`hwbench.conditions.emulated` stamps whatever runs there).
"""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hwbench import files
from hwbench.boards import wheels
from hwbench.errors import TargetError
from hwbench.records import digest, file_digest

PACKAGES = (
    "python3.11", "python3-minimal", "libstdc++6", "libgomp1", "openssh-server",
    "openssh-sftp-server", "dash", "bash", "coreutils", "grep", "procps", "hostname",
)  # fmt: skip
TARGET = "rpi4-emulated"
"""The target that describes this board; its backends are what is put there."""
_MIRROR = "http://deb.debian.org/debian"
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
BROKEN = "onnxruntime==1.21.0"
"""The negative control: it dies of an illegal instruction on a Cortex-A72, real or emulated."""


def emulate(folder: Path, backends: Sequence[str]) -> bool:
    """Build the board in `folder`, if it is not there as it should be; return whether it was built.

    `backends` are those that it is to run.

    Raises `TargetError` when a tool is missing or apt or pip fail.
    """
    key = digest({"made by": file_digest(Path(__file__)), "wheels": wheels.pins(backends)})
    marker = folder / "built"
    with files.locked(folder.parent / f".{folder.name}.lock", wait=True):
        if marker.exists() and marker.read_text() == key:
            return False
        _demand("apt-get", "dpkg-deb", "tar", "unshare")
        shutil.rmtree(folder, ignore_errors=True)
        root = folder / "root"
        root.mkdir(parents=True)
        _unpack_debian(root, folder / "apt")
        site = root / "opt/hwbench"
        wheels.unpack(wheels.pins(backends), site, "aarch64", "3.11", "2.36")
        wheels.unpack([BROKEN], root / "opt/broken", "aarch64", "3.11", "2.36")
        _provision(root)
        facade(root)
        _precompile(root)
        shutil.rmtree(folder / "apt")
        files.write(marker, key)
    return True


def _demand(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            raise TargetError(
                f"there is no {tool} here",
                where="emulated board",
                expected="Debian or Ubuntu with util-linux",
            )


def _unpack_debian(root: Path, state: Path) -> None:
    """Fetch and unpack the packages and qemu; apt keeps its books in a folder of its own."""
    for name in ("lists/partial", "cache/archives/partial", "etc/preferences.d", "dpkg", "qemu"):
        (state / name).mkdir(parents=True)
    (state / "dpkg/status").touch()
    signed = f" signed-by={_KEYRING}" if _KEYRING.exists() else ""
    mirror = os.environ.get("HWBENCH_DEBIAN_MIRROR", _MIRROR)
    (state / "sources.list").write_text(f"deb [arch=arm64,amd64{signed}] {mirror} bookworm main\n")
    (state / "apt.conf").write_text(
        f'Dir::Etc "{state}/etc"; Dir::Etc::sourcelist "{state}/sources.list";\n'
        f'Dir::Etc::sourceparts "-"; Dir::State "{state}"; Dir::State::lists "{state}/lists";\n'
        f'Dir::State::status "{state}/dpkg/status"; Dir::Cache "{state}/cache";\n'
        'APT::Architecture "arm64"; APT::Architectures { "arm64"; "amd64"; };\n'
        'APT::Install-Recommends "0"; APT::Sandbox::User ""; Acquire::Languages "none";\n'
        'Acquire::Retries "3"; pkgCacheGen::ForceEssential "none";\n'
    )
    environment = {**os.environ, "APT_CONFIG": str(state / "apt.conf")}
    _run(["apt-get", "-qq", "update"], state, environment)
    _run(["apt-get", "-qq", "-y", "-d", "install", *PACKAGES], state, environment)
    # Unpacked, not installed: installing would register it for the whole machine.
    qemu = ["apt-get", "-qq", "download", "qemu-user-static:amd64"]
    _run(qemu, state / "qemu", environment)
    packages = sorted((state / "cache/archives").glob("*.deb"))
    for package in packages:
        _run(["dpkg-deb", "-x", str(package), str(root)], state, environment)
    for package in (state / "qemu").glob("*.deb"):
        _run(["dpkg-deb", "-x", str(package), str(state / "qemu/x")], state, environment)
    shutil.copy(state / "qemu/x/usr/bin/qemu-aarch64-static", root.parent / "qemu-aarch64")


def _run(command: Sequence[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise TargetError(
            f"{command[0]} failed: {(lines or ['it said nothing'])[-1][:300]}",
            where="emulated board",
            mend="a Debian mirror must be reachable (HWBENCH_DEBIAN_MIRROR names another one)",
        )


def _provision(root: Path) -> None:
    """Write the few files that a board has and packages do not bring: users, sshd, odd Pythons."""
    (root / "etc/passwd").write_text(
        "root:x:0:0::/root:/bin/sh\npi:x:1000:1000::/home/pi:/bin/bash\n"
        "sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
    )
    (root / "etc/group").write_text("root:x:0:\npi:x:1000:\nnogroup:x:65534:\n")
    (root / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\n")
    for name in ("home/pi", "run", "tmp", "proc", "sys", "dev", "opt"):
        (root / name).mkdir(parents=True, exist_ok=True)
    (root / "etc/ssh").mkdir(exist_ok=True)
    (root / "etc/ssh/sshd_config").write_text(
        "HostKey /run/keys/hostkey\nAuthorizedKeysFile /run/keys/authorized_keys\nPidFile none\n"
        "UsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin no\n"
        "AllowTcpForwarding no\nSubsystem sftp internal-sftp\n"
        "SetEnv QEMU_CPU=cortex-a72 HWBENCH_EMULATED=qemu-aarch64 PYTHONPATH=/opt/hwbench "
        "PYTHONDONTWRITEBYTECODE=1\n"
    )
    broken = root / "opt/broken/python"
    broken.write_text('#!/bin/sh\nPYTHONPATH=/opt/broken:/opt/hwbench exec python3 "$@"\n')
    broken.chmod(0o755)


def _precompile(root: Path) -> None:
    """Compile Python's own library there, where this Python is of the same version.

    Packages do it when they are installed, which these are not; starts would take thrice as long.
    """
    if sys.version_info[:2] != (3, 11):
        return
    places = ("usr/lib/python3.11", "opt/hwbench/numpy", "opt/hwbench/tvm_ffi",
              "opt/hwbench/onnxruntime/capi")  # fmt: skip
    compileall.compile_dir(root / "opt/hwbench/onnxruntime", 0, quiet=2)
    for place in places:
        compileall.compile_dir(root / place, quiet=2, workers=0)


_LABEL = "a facade of hwbench's, not a real board"
_CORES = range(4)


def facade(root: Path) -> None:
    """Write the files in which runtimes look for the processor, as a Raspberry Pi 4 shows them.

    They stand in ``facade/`` for namespaces, which mount them over the real ones, and in ``proc``
    and ``sys`` for plain ``qemu-aarch64 -L``, which looks there first.
    """
    cores = [
        f"processor\t: {core}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\n"
        "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\n"
        "CPU part\t: 0xd08\nCPU revision\t: 3\n\n"
        for core in _CORES
    ]
    tail = f"Hardware\t: BCM2711 ({_LABEL})\nModel\t\t: Raspberry Pi 4 Model B ({_LABEL})\n"
    for place in (root / "facade", root):
        proc = place if place.name == "facade" else place / "proc"
        proc.mkdir(parents=True, exist_ok=True)
        (proc / "cpuinfo").write_text("".join(cores) + tail)
        cpus = place / "cpu" if place.name == "facade" else place / "sys/devices/system/cpu"
        for core in _CORES:
            _core(cpus / f"cpu{core}", core)
        for name in ("possible", "present", "online"):
            (cpus / name).write_text("0-3\n")
        (cpus / "kernel_max").write_text("7\n")
    (root / "facade/README").write_text(f"These files are {_LABEL}: they feed parsers only.\n")


def _core(folder: Path, core: int) -> None:
    entries = {
        "cpufreq/cpuinfo_max_freq": "1800000",
        "cpufreq/cpuinfo_min_freq": "600000",
        "topology/physical_package_id": "0",
        "topology/core_id": str(core),
        "topology/core_siblings_list": "0-3",
        "regs/identification/midr_el1": "0x00000000410fd083",
    }
    caches = (("1", "Data", "32K", str(core)), ("1", "Instruction", "48K", str(core)),
              ("2", "Unified", "1024K", "0-3"))  # fmt: skip
    for index, (level, kind, size, shared) in enumerate(caches):
        place = f"cache/index{index}"
        entries |= {f"{place}/level": level, f"{place}/type": kind, f"{place}/size": size}
        entries |= {f"{place}/shared_cpu_list": shared, f"{place}/coherency_line_size": "64"}
    for name, text in entries.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text + "\n")
