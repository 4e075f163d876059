#!/usr/bin/env python3
"""Golden cases of group queues with a fractional async ratio, in the form of the other `07` files.

    python3 make_fraction.py > ../../../src/algorithms/testdata/07-fractional-ratio.jsonl

Written from the words of docs/async.md, not from the product's code; needs the standard library only. A ratio k + f:
  advance(step)   drops slots older than k + 1 steps (k where f = 0); makes one slot per queue; then, at the first step and
                  where lost slots are made up for ("replace"), more in the shortest queues, the first of equals, until there
                  are floor((1 + ratio) * queues).
  request(env)    the first slot of its queue, in the order they were made, that is not complete and has had fewer
                  environments than group_size + redundancy; otherwise the environment is blocked.
  get_batch(n)    n complete slots, the oldest first, of equals the first to be completed; of those k + 1 steps old at most
                  floor(f * n).
"""
import json
import math
import random


class Queues:
    def __init__(self, cfg):
        self.cfg, self.slots, self.blocked, self.work = cfg, [], [], {}
        self.step, self.number, self.done, self.want = None, [0] * cfg["groups"], 0, None
        self.whole, self.part = math.floor(cfg["async_ratio"]), cfg["async_ratio"] % 1
        self.oldest = self.whole + (1 if self.part else 0)

    def make(self, group):
        self.slots.append(dict(group=group, episode=self.number[group], create=self.step, envs=[], handed=0, done=None))
        self.number[group] += 1

    def of(self, group):
        return [s for s in self.slots if s["group"] == group]

    def advance(self, step):
        lost = [s for s in self.slots if step - s["create"] > self.oldest]
        self.slots = [s for s in self.slots if s not in lost]
        lost.sort(key=lambda s: s["group"])
        first, self.step = self.step is None, step
        for group in range(self.cfg["groups"]):
            self.make(group)
        total = math.floor((1 + self.cfg["async_ratio"]) * self.cfg["groups"] + 1e-9)
        while (first or self.cfg["replace"]) and len(self.slots) < total:
            self.make(min(range(self.cfg["groups"]), key=lambda g: len(self.of(g))))
        rows = [[s["group"], s["episode"], s["create"], len(s["envs"])] for s in lost]
        return {"dropped": rows, **self.changed()}

    def assign(self, env):
        limit = self.cfg["group_size"] + self.cfg["redundancy"]
        for slot in self.of(env // self.cfg["envs_per_group"]):
            if slot["done"] is None and slot["handed"] < limit:
                slot["handed"] += 1
                self.work[env] = slot
                return slot["episode"]
        return None

    def request(self, env):
        episode = self.assign(env)
        if episode is None:
            self.blocked.append(env)
        return {"episode": episode}

    def put(self, env):
        slot = self.work.pop(env)
        if slot not in self.slots:
            return {"episode": slot["episode"], "result": "ignored"}
        slot["envs"].append(env)
        if len(slot["envs"]) != self.cfg["group_size"]:
            late = len(slot["envs"]) > self.cfg["group_size"]
            return {"episode": slot["episode"], "result": "redundant" if late else "stored"}
        self.done += 1
        slot["done"] = self.done
        batch = self.changed()
        batch.pop("served")
        return {"episode": slot["episode"], "result": "completed", **batch}

    def get_batch(self, count, step):
        self.want = [count, step, []]
        return self.fill() or {"batch": "waiting", "have": len(self.want[2])}

    def changed(self):
        served = [(env, self.assign(env)) for env in self.blocked]
        self.blocked = [env for env, episode in served if episode is None]
        return {"served": [[env, episode] for env, episode in served if episode is not None], **(self.fill() or {})}

    def fill(self):
        if self.want is None:
            return None
        count, step, taken = self.want
        while len(taken) < count:
            old = sum(step - s["create"] == self.oldest for s in taken)
            full = self.part > 0 and old >= math.floor(self.part * count + 1e-9)
            fit = [s for s in self.slots if s["done"] and not (full and step - s["create"] == self.oldest)]
            if not fit:
                return None
            slot = min(fit, key=lambda s: (s["create"], s["done"]))
            self.slots.remove(slot)
            taken.append(slot)
        self.want = None
        envs = self.cfg["group_size"]
        rows = [[s["group"], s["episode"], s["create"], step - s["create"], s["envs"][:envs]] for s in taken]
        return {"batch": "ready", "groups": rows, "discarded": []}


def play(cfg, seed, steps):
    """Environments that take random times, one of them forty times as long, and a trainer that takes five ticks a step."""
    rng, queues, events, results, due = random.Random(seed), Queues(cfg), [], [], {}

    def do(event, result, now):
        events.append(event)
        results.append(result)
        starting = [env for env, _ in result.get("served", [])]
        if result.get("episode") is not None and event[0] == "request":
            starting.append(event[1])
        for env in starting:
            due[env] = now + rng.randint(1, 6) + (40 if env == 1 else 0)
        return result.get("batch") == "ready"

    do(["advance", 0], queues.advance(0), 0)
    for env in range(cfg["groups"] * cfg["envs_per_group"]):
        do(["request", env], queues.request(env), 0)
    do(["get_batch", cfg["batch_groups"], 0], queues.get_batch(cfg["batch_groups"], 0), 0)
    step, trained = 0, None
    for now in range(1, 1000):
        ready = False
        for env in sorted(env for env, at in due.items() if at <= now):
            del due[env]
            ready |= do(["put", env, 1.0], queues.put(env), now)
            do(["request", env], queues.request(env), now)
        if trained is not None and now >= trained:
            trained, step = None, step + 1
            if step == steps:
                break
            do(["advance", step], queues.advance(step), now)
            ready |= do(["get_batch", cfg["batch_groups"], step], queues.get_batch(cfg["batch_groups"], step), now)
        trained = now + 5 if ready else trained
    ages = [row[3] for result in results for row in result.get("groups", [])]
    assert step == steps and max(ages) <= math.ceil(cfg["async_ratio"])
    summary = {"mean_staleness": sum(ages) / len(ages), "max_staleness": max(ages)}
    return {"inputs": {"config": cfg, "events": events}, "expected": {"results": results, "summary": summary}}


for ratio in (0.25, 0.5, 1.5, 2.75):
    for replace in (False, True):
        cfg = dict(groups=4, envs_per_group=3, group_size=2, redundancy=1 if replace else 0, max_traj_per_env=1,
                   async_ratio=ratio, policy="greedy", batch_groups=4, in_order=False, replace=replace)
        case = {"name": f"fraction/ratio={ratio}{'/replace' if replace else ''}", **play(cfg, f"{ratio}/{replace}", 6)}
        print(json.dumps(case))
