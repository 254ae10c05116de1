"""``python -m opd_toy doors``: the record of students that search, by who wrote their texts."""

from opd_toy.commands.running import Progress, add_small_study, aligned, make_record


def add(commands):
    add_small_study(
        commands,
        "doors",
        "doors.json",
        make,
        table,
        help="where it matters who wrote the text: students that must search behind doors",
        description="Train small students of a teacher that knows behind which of four doors "
        "somebody is, on the teacher's texts and on their own, let them search, and record how "
        "many find the room. A few minutes of a processor. Interrupted or killed, the same "
        "command goes on.",
    )


def make(path, folder):
    from opd_toy.lm.searching import MODULES, SEEDS, searching

    compute = lambda: searching(folder, Progress)
    return make_record(path, compute, modules=MODULES, seed=list(SEEDS))


def table(results):
    """The share of answers that come to the right room: means over the seeds, by the teacher."""
    noises = list(results["teachers"])
    rows = [["trained further by", *(f"noise {float(noise):g}" for noise in noises)]]
    for method in dict.fromkeys(run["method"] for run in results["runs"]):
        cells = []
        for noise in noises:
            found = [
                run["found"]
                for run in results["runs"]
                if (run["method"], str(run["noise"])) == (method, noise)
            ]
            cells.append(f"{sum(found) / len(found):.3f}" if found else "")
        rows.append([method, *cells])
    rows.append(
        ["(the teacher)", *(f"{found['found']:.3f}" for found in results["teachers"].values())]
    )
    return (
        f"Share of {results['questions']} answers that come to the right room, after "
        f"{results['further']['steps']} steps\n\n{aligned(rows, 1)}"
    )
