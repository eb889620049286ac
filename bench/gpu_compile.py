"""python -m bench aot: every GPU kernel compiled ahead of time, and what the compiler made of it.

Needs no GPU: Triton brings ptxas and cuobjdump. Triton kernels are compiled as they are launched (`aot_cases` beside
each kernel); CUDA kernels are read from `revelio_fast._cuda`, where it was built. Not under TRITON_INTERPRET=1.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import importlib.util
import pkgutil
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from bench.measure import write_json
from revelio_fast import ops
from revelio_fast.ops import triton_runtime

CAPABILITIES = (80, 86, 89, 90, 100, 120)

# instruction of the tensor cores -> what PTX calls it
TENSOR_CORES = {"HMMA": "mma", "HGMMA": "wgmma", "UTCHMMA": "tcgen05"}
COLUMNS = (
    ("kernel", "kernel"),
    ("capability", "sm"),
    ("registers", "registers"),
    ("spilled_bytes", "spilled bytes"),
    ("shared_bytes", "shared bytes"),
    ("threads", "threads"),
    ("tensor_cores", "tensor cores"),
    ("instructions", "instructions"),
    ("mix", "of them"),
)


def main(arguments: list[str]) -> int:
    """Compile, print the table and write it; exit code 1 where a kernel spills or no case covers it."""
    parser = argparse.ArgumentParser(prog="python -m bench aot", description=__doc__)
    parser.add_argument("--capabilities", type=int, nargs="+", default=CAPABILITIES, choices=CAPABILITIES)
    parser.add_argument("--json", type=Path, help="where to write the rows")
    options = parser.parse_args(arguments)
    rows = [row for capability in options.capabilities for row in triton_rows(capability)]
    rows += [row for row in cuda_rows() if row["capability"] in options.capabilities]
    report = {"versions": _versions(), "uncovered": uncovered(), "rows": rows}
    print(table(rows))
    if options.json:
        write_json(options.json, report)
    spilling = [f"{row['kernel']} on sm_{row['capability']}" for row in rows if row["spilled_bytes"]]
    for words, names in (("spills registers", spilling), ("has no ahead-of-time case", report["uncovered"])):
        for name in names:
            print(f"{name} {words}")
    return 1 if spilling or report["uncovered"] else 0


def triton_rows(capability: int) -> list[dict[str, Any]]:
    """Compile the cases of every revelio_fast/ops/<op>/triton for one compute capability (major * 10 + minor)."""
    return [
        {"kernel": case["name"], "source": "triton", **compile_case(case, capability)}
        for module in _triton_modules()
        for case in _cases(module, capability)
    ]


def compile_case(case: dict[str, Any], capability: int, **options: Any) -> dict[str, Any]:
    """Registers, spills, shared memory and instructions of one kernel as `case` says it is launched.

    Pointers are taken to be aligned to 16 bytes, as torch allocates them; ``case["divisible"]`` names the integers that
    are multiples of 16 (Triton compiles other code for them). `options` are Triton's, beside the case's own.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel, constants = case["kernel"], case["constexprs"]
    aligned = set(case.get("divisible", ())) | {n for n, kind in case["signature"].items() if kind.startswith("*")}
    source = ASTSource(
        fn=kernel,
        signature={n: "constexpr" if n in constants else case["signature"][n] for n in kernel.arg_names},
        constexprs=constants,
        attrs={
            (i,): [["tt.divisibility", 16]] for i, n in enumerate(kernel.arg_names) if n in aligned - set(constants)
        },
    )
    options |= {"num_warps": case["num_warps"], "num_stages": case["num_stages"]}
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        (made,) = read_binary(Path(file.name))
    shared = max(made["shared_bytes"], compiled.metadata.shared)
    threads = 32 * compiled.metadata.num_warps
    return made | {"capability": capability, "shared_bytes": shared, "threads": threads, "function": kernel.__name__}


def cuda_rows() -> list[dict[str, Any]]:
    """The same of every kernel and architecture in `revelio_fast._cuda`; nothing where it was not built."""
    built = importlib.util.find_spec("revelio_fast._cuda")
    if built is None or built.origin is None:
        return []
    return [
        {"kernel": made["function"], "source": "cuda", "threads": None, **made}
        for made in read_binary(Path(built.origin))
    ]


def read_binary(path: Path) -> list[dict[str, Any]]:
    """Resource use and instruction mix of every kernel in a library, or in a cubin (there without capability)."""
    usage: dict[tuple[int, str], dict[str, int]] = {}
    instructions: dict[tuple[int, str], collections.Counter] = {}
    wide: collections.Counter = collections.Counter()
    capability, name = 0, ""
    for line in (_cuobjdump("-res-usage", path) + _cuobjdump("-sass", path)).splitlines():
        if found := re.match(r"arch = sm_(\d+)", line):
            capability = int(found[1])
        elif found := re.search(r"Function\s*:?\s+([\w$]+)", line):
            name = found[1]
        elif line.lstrip().startswith("REG:"):
            usage[capability, name] = {key: int(number) for key, number in re.findall(r"(\w+):(\d+)", line)}
        elif found := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)(\S*)", line):
            count = instructions.setdefault((capability, name), collections.Counter())
            count[found[1]] += 1
            wide[capability, name] += found[1] == "LDG" and ".128" in found[2]
    return [_row(key, used, instructions[key], wide[key]) for key, used in usage.items()]


def _row(key: tuple[int, str], usage: dict[str, int], count: collections.Counter, wide: int) -> dict[str, Any]:
    groups = {
        "tensor": sum(count[name] for name in TENSOR_CORES),
        "float": count["FFMA"] + count["FADD"] + count["FMUL"] + count["FFMA2"] + count["FADD2"] + count["FMUL2"],
        "16-byte load": wide,
        "global": count["LDG"] + count["STG"] + count["LDGSTS"] + count["UTMALDG"] + count["UTMASTG"],
        "shared": count["LDS"] + count["STS"] + count["LDSM"] + count["STSM"],
        "atomic": count["ATOM"] + count["ATOMG"] + count["ATOMS"] + count["RED"] + count["REDG"],
        "shuffle": count["SHFL"] + count["REDUX"] + count["CREDUX"],
        "barrier": count["BAR"] + count["SYNCS"],
        "tma": count["UTMALDG"] + count["UTMASTG"],
        "local": count["LDL"] + count["STL"],
    }
    return {
        "capability": key[0],
        "function": _demangled(key[1]),
        "registers": usage["REG"],
        "spilled_bytes": usage["STACK"] + usage["LOCAL"],
        "shared_bytes": usage["SHARED"],
        "tensor_cores": next((words for name, words in TENSOR_CORES.items() if count[name]), None),
        "instructions": sum(count.values()) - count["NOP"],
        "mix": {group: number for group, number in groups.items() if number},
    }


def uncovered() -> list[str]:
    """Triton functions that no case compiles, neither as a kernel nor as part of one."""
    from triton.runtime.jit import JITFunction

    modules = _triton_modules()
    everything = [f for module in modules for f in vars(module).values() if isinstance(f, JITFunction)]
    functions = {f.__name__: f for f in everything if f.fn.__module__.startswith("revelio_fast.")}
    compiled = {case["kernel"].__name__ for module in modules for case in _cases(module, CAPABILITIES[0])}
    while True:
        bodies = "".join(functions[name].src for name in compiled)
        called = {name for name in functions if re.search(rf"(?<!def )\b{name}\(", bodies)}
        if called <= compiled:
            return sorted(set(functions) - compiled)
        compiled |= called


def _cases(module: Any, capability: int) -> list[dict[str, Any]]:
    """The cases of the module that defines the function: other modules may have imported it."""
    cases = vars(module).get("aot_cases")
    return cases(capability) if cases and cases.__module__ == module.__name__ else []


def table(rows: list[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = ["| " + " | ".join(head for _, head in COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    for row in rows:
        mix = ", ".join(f"{number} {group}" for group, number in row["mix"].items())
        cells = [mix if key == "mix" else "-" if row[key] is None else str(row[key]) for key, _ in COLUMNS]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def summary(report: dict[str, Any]) -> str:
    """One line a kernel in Markdown: registers on each architecture, and what is the same or largest of all."""
    capabilities = sorted({row["capability"] for row in report["rows"]})
    heads = ["kernel", "threads", *(f"sm_{c}" for c in capabilities), "spilled bytes", "shared bytes", "tensor cores"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    kernels: dict[tuple[str, str], dict[int, dict[str, Any]]] = {}
    for row in report["rows"]:
        kernels.setdefault((row["source"], row["kernel"]), {})[row["capability"]] = row
    for (source, name), rows in kernels.items():
        threads = {str(row["threads"]) for row in rows.values() if row["threads"]}
        cores = {row["tensor_cores"] for row in rows.values() if row["tensor_cores"]}
        cells = [f"{source}: {name}", ", ".join(sorted(threads)) or "-"]
        cells += [str(rows[c]["registers"]) if c in rows else "-" for c in capabilities]
        cells += [str(max(row[key] for row in rows.values())) for key in ("spilled_bytes", "shared_bytes")]
        lines.append("| " + " | ".join([*cells, ", ".join(sorted(cores)) or "-"]) + " |")
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    return "\n".join([f"Registers a thread by architecture; {versions}.", "", *lines])


def _triton_modules() -> list[Any]:
    if triton_runtime.INTERPRETED:
        raise SystemExit("TRITON_INTERPRET=1 is set: Triton compiles nothing in its interpreter. Unset it.")
    names = [found.name for found in pkgutil.walk_packages(ops.__path__, f"{ops.__name__}.")]
    return [importlib.import_module(name) for name in names if "triton" in name.split(".")]


def _cuobjdump(what: str, path: Path) -> str:
    import triton

    done = subprocess.run([triton.knobs.nvidia.cuobjdump.path, what, str(path)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"cuobjdump {what} {path} failed: {done.stderr.strip()}")
    return done.stdout


def _demangled(name: str) -> str:
    """The name without namespace and arguments; c++filt comes with every C++ compiler."""
    if not name.startswith("_Z"):
        return name
    long = subprocess.run(["c++filt", name], capture_output=True, text=True).stdout.strip() or name
    return re.sub(r"\(anonymous namespace\)::|\w+::|^void ", "", long).split("(")[0]


def _versions() -> dict[str, str]:
    import triton

    tools = triton.knobs.nvidia
    return {
        "triton": triton.__version__,
        "ptxas": tools.ptxas.version,
        "ptxas_blackwell": tools.ptxas_blackwell.version,
    }
