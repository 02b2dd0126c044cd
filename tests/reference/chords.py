"""CHORDS from its rules, in plain loops over numpy arrays, for one sample.

Han et al. 2025 (arXiv:2507.15260), Section 2 and Algorithm 1. A core is a state with the memory that its next step
reads (two lists, newest first); everything else is the clock.
"""


def advance(a, b, noise, node, xs, fs):
    new = noise[node].copy()
    for i in range(min(a.shape[1], len(xs))):
        new = new + a[node, i] * xs[i]
    for j in range(min(b.shape[1], len(fs))):
        new = new + b[node, j] * fs[j]
    return new


def go(a, b, noise, begin, end, f, state):
    """From one node to another with an output held."""
    memory = max(a.shape[1], b.shape[1]) - 1
    xs, fs = state
    for node in range(begin, end):
        new = advance(a, b, noise, node, xs, [f, *fs])
        xs, fs = [new, *xs][: memory + 1], [f, *fs][:memory]
    return xs, fs


def combine(fine, new, old):
    return tuple([f + n - o for f, n, o in zip(*lists, strict=True)] for lists in zip(fine, new, old, strict=True))


def chords(a, b, noise, network, x0, starts):
    """``(hits, history)``: ``(core, round, sample)`` in order of arrival, and each round's ``{core: (node, state)}``.

    Core 0 is the slow one. A hit of core ``len(starts)`` is the coarse shot of the last core.
    """
    steps = len(a)
    cores = [{"node": 0, "state": ([x0], []), "begin": (0, ([x0], [])), "stored": None}]
    hits, history, clock = [], [], 0
    while cores:
        clock += 1
        seen = []
        for core in cores:
            f = network(core["state"][0][0], core["node"])
            seen.append((core["node"], core["state"], f))
            if core["node"] == core["begin"][0]:
                core["stored"] = f
        newest, (node, state, f) = len(cores) - 1, seen[-1]
        sent = None
        if node == starts[newest]:
            if newest + 1 < len(starts):
                sent = (starts[newest + 1], go(a, b, noise, node, starts[newest + 1], f, state))
            else:
                hits.append((len(starts), clock, go(a, b, noise, node, steps, f, state)[0][0]))
        for k, core in enumerate(cores):
            node, state, f = seen[k]
            after = go(a, b, noise, node, node + 1, f, state)
            at, old = core["begin"]
            if k > 0 and seen[k - 1][0] == at:
                slow = go(a, b, noise, at, node + 1, seen[k - 1][2], seen[k - 1][1])
                own = go(a, b, noise, at, node + 1, core["stored"], old)
                after = combine(after, slow, own)
                core["begin"] = (node + 1, after)
            core["node"], core["state"] = node + 1, after
        if sent is not None:
            cores.append({"node": sent[0], "state": sent[1], "begin": sent, "stored": None})
        history.append({k: (c["node"], c["state"][0][0]) for k, c in enumerate(cores)})
        for k in reversed(range(len(cores))):
            if cores[k]["node"] == steps:
                hits.append((k, clock, cores[k]["state"][0][0]))
        cores = [c for c in cores if c["node"] < steps]
    return hits, history
