"""The training loop, for any task and architecture.

Nothing random is remembered: before each step torch's generator is seeded from (seed, step), and
the order of the examples is a function of (seed, epoch), so a resumed run repeats the unbroken one
to the bit. The loop prints nothing; a listener is told.
"""

import math
from contextlib import suppress

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from xtool.archs import Compiling, Stepped
from xtool.errors import Diverged, Interrupted
from xtool.rows import Row
from xtool.seeds import derive
from xtool.training.batches import Batches
from xtool.training.hierarchy import Hierarchy
from xtool.training.journal import Journal, Silent, best_path, rows_path, state_path
from xtool.training.optimizers import make
from xtool.training.parallel import gather
from xtool.training.replicas import Replicas
from xtool.training.routes import applied
from xtool.training.rows import RunRows
from xtool.training.run import Listener, Run
from xtool.training.state import load_state, save_model, save_state
from xtool.training.stop import StopRequest
from xtool.training.watch import Watch, without_gradient

LOOK_EVERY = 20


def train(run: Run, listener: Listener, resume: bool = False) -> str:
    """Train, write the model and its rows, and return the model's digest.

    Args:
        run: what to train.
        listener: is told of steps and evaluations.
        resume: go on from `NAME.resume.st`, which must be there.

    Raises:
        Interrupted: a signal came; the state is saved.
        Diverged: the loss became NaN or infinite; the last good state is left.
    """
    return _Loop(run, listener, resume).run_all()


class _Loop:
    """The moving parts of one run."""

    def __init__(self, run: Run, listener: Listener, resume: bool) -> None:
        self.run, self.listener, self.total = run, listener, run.total_steps
        self.processes = run.processes
        bf16 = run.dials["precision"] == "bf16"
        self.who = Replicas(run.model, run.config, len(run.seeds), bf16)
        average = run.shown is not run.model
        self.shown = Replicas(run.shown, run.config, len(run.seeds)) if average else self.who
        self.device = self.who.device
        self.batches = Batches(run, self.device)
        self.baselines = run.task.baselines(self.batches.split, run.data.split("dev"))
        self.state_path = state_path(run.out)
        slots = load_state(run, self.state_path) if resume else run.slots
        self.sharded = average and not run.dials["ema"]
        # What loops have of their own, and an input that only the first loop reads.
        own = any(map(run.config.get, ("loop_rank", "untied")))
        own = own or run.config.get("injection") == "none"
        fewest = run.config.get("loops_from")
        # Nested sizes, and loops with values of their own, need not all be in every step.
        self.turns = bool(self.who.nested or (own and fewest and fewest < run.config["n_loops"]))
        if self.processes.count > 1:
            kind = str(run.dials["parallel"])
            self.who.forward = self.processes.wrap(run.model, kind, own)
        if self.sharded:
            gather(run.model, run.shown)
        if run.dials["compile"]:
            part = isinstance(run.model, Compiling) and run.model.compile_part(torch.compile)
            self.who.forward = self.who.forward if part else torch.compile(self.who.forward)
        self.optimizers = make(run.model, run.layout, run.dials, slots)
        self.slots = {name: slot.earlier(run.position.step) for name, slot in slots.items()}
        done = run.position.stopped or run.position.step >= self.total
        self.keep_state = run.dials["keep_state"] or (resume and done and run.out.exists())
        kept = run.position.step if resume else None
        first = self.processes.first
        self.journal = Journal(rows_path(run.out), kept) if first else Silent()
        if resume and first and len(self.journal.kept) != run.position.rows:
            listener.note(
                f"{self.journal.path}: {len(self.journal.kept)} rows before step "
                f"{run.position.step}, the run wrote {run.position.rows}"
            )
            run.position.rows = len(self.journal.kept)
        self.losses: list[Tensor] = []
        self.clipped = torch.tensor(run.position.clipped or [0] * self.who.count).to(self.device)
        watched = run.dials["watch"]
        self.watch = Watch(run.model, self.who, run.position.step) if watched else None
        self.hierarchy = self._hierarchy()
        self.rows = RunRows(run, self.who, self.journal.seconds, self.watch, self.hierarchy)

    def _hierarchy(self) -> Hierarchy | None:
        """The groups that nested sizes learn, if any are to be."""
        run, dials = self.run, self.run.dials
        asked = dials["categories"] or dials["emergent"] != "none" or run.position.groups
        if self.who.nested is None or not asked:
            return None
        seen = None
        if dials["emergent"] != "none":
            if dials["every"] >= self.total:
                self.listener.note(f"no groups are found in {self.total} steps: lower `--every`")
            tokens = run.data.stored("train").targets.flatten().long()
            seen = torch.bincount(tokens, minlength=run.config["vocab_size"]).cpu().numpy()
        found = Hierarchy(run.config, dials, run.data.header, run.position.groups, seen)
        self.who.nested.hierarchy = found
        return found

    def run_all(self) -> str:
        """Every step from the position to the end, then the files."""
        at = self.run.position
        try:
            with StopRequest() as stop, applied(self.run.route):
                if not at.rows:
                    self._evaluate()
                while at.step < self.total and not at.stopped:
                    if self._asked(stop):
                        raise self._interrupted()
                    self._step()
                    self._look()
                return self._finish()
        finally:
            self.journal.close()

    def _asked(self, stop: StopRequest) -> bool:
        """Whether to stop; several processes agree on it now and then, so that all do."""
        here = stop.asked is not None
        if self.processes.count == 1:
            return here
        return self.run.position.step % LOOK_EVERY == 0 and self.processes.any(here, self.device)

    def _step(self) -> None:
        """One batch: forward, backward, update."""
        run, step, dials = self.run, self.run.position.step, self.run.dials
        lr = run.lr(step)
        for group in (group for one in self.optimizers for group in one.param_groups):
            group["lr"] = lr * group["lr_factor"]
        apart = [self.processes.rank] if self.processes.rank else []
        now = run.steps_before + step
        self.who.seed([derive(seed, "step", now, *apart) for seed in run.seeds])
        run.model.train()
        for one in (run.model, self.who.nested):
            if isinstance(one, Stepped):
                one.at_step(now)
        batch = self.batches.rows(step)  # (R, B)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        losses = self._gradients(batch)  # (R,)
        watched = self.watch if self._due(step + 1) else None
        if watched:
            watched.gradients()
        if dials["clip"] > 0:
            norms = self.who.clip(dials["clip"])  # (R,)
            self.clipped += norms > dials["clip"]
        for optimizer in self.optimizers:
            optimizer.step()
        if watched:
            watched.updates()
        if dials["ema"]:
            self._average(min(dials["ema"], (1 + step) / (10 + step)))
        self.losses.append(losses)
        run.position.step += 1

    def _gradients(self, batch: Integer[Tensor, "R B"]) -> Float[Tensor, " R"]:
        """The gradients of a batch, summed over its parts, and its mean losses."""
        run, processes, pool = self.run, self.processes, self.batches
        # As many parts in every process, so that they wait for each other as often.
        parts = min(int(run.dials["accumulate"]), max(1, batch.shape[1] // processes.count))
        batch, whole = processes.share(batch)
        examples, found = batch.shape[1], []
        for part in torch.tensor_split(batch, parts, 1):
            losses = self.who.losses(run.task.loss, pool.inputs[part], pool.targets[part])  # (R,)
            losses = losses * (whole * part.shape[1] / examples)
            # Gradients are averaged over processes, the batch's is their sum.
            (losses.sum() * processes.count).backward()  # type: ignore[no-untyped-call]
            found.append(losses.detach())
        if self.turns:
            # What none of this step has is moved by its moments all the same, so that all
            # parameters are as many steps old; other optimizers than AdamW count no steps.
            counting = [one for one in self.optimizers if isinstance(one, torch.optim.AdamW)]
            for group in (group for one in counting for group in one.param_groups):
                for parameter in (one for one in group["params"] if one.grad is None):
                    parameter.grad = torch.zeros_like(parameter)
        return torch.stack(found).sum(0)

    @torch.no_grad()
    def _average(self, memory: float) -> None:
        """Move the averaged weights towards those after a step; the first steps weigh more."""
        averaged: list[Tensor] = list(self.run.shown.parameters())
        now: list[Tensor] = list(self.run.model.parameters())
        torch._foreach_lerp_(averaged, now, 1 - memory)

    def _look(self) -> None:
        """After a step: what is due of reports, evaluations and saves."""
        step, dials = self.run.position.step, self.run.dials
        self._regroup(step)
        limit = dials["max_time"]
        if limit is not None:
            over = self.rows.spent() >= limit
            self.run.position.stopped = self.processes.any(over, self.device) and step < self.total
        last = step == self.total or self.run.position.stopped
        due = self._due(step)
        save = step % int(dials["save_every"]) == 0 if dials["save_every"] else due
        look = step % LOOK_EVERY == 0 or due or save or last
        self.listener.stepped(step, self._add_losses() if look else None)
        if due or last:
            self._evaluate()
        if save and not last:
            self._save_state()
        if step == min(LOOK_EVERY, self.total) and not self.sharded and not self.turns:
            self._name_unmoved()

    def _regroup(self, step: int) -> None:
        """Let groups of tokens emerge where that is due, unless a loss is no number."""
        if self.hierarchy is None or not self.hierarchy.due(step) or step == self.total:
            return  # what is found at the end nothing would learn
        self._add_losses()
        base = {**self.rows.base(0), "split": "train"}
        before = self.hierarchy.settled
        rows = self.hierarchy.regroup(self.run.model, base)
        self.journal.write(rows)
        self.run.position.rows += len(rows)
        if self.hierarchy.settled and not before:
            self.listener.note(f"the groups agree with the last ones, they stay from step {step}")

    def _due(self, step: int) -> bool:
        """Whether the step is followed by an evaluation, unless time is over before."""
        run = self.run
        every = int(run.dials["eval_every"] or run.steps_per_epoch)
        return step % every == 0 or step == self.total

    def _name_unmoved(self) -> None:
        """Say which parameters learn nothing."""
        names = without_gradient(self.run.model)
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            self.listener.note(f"no gradient reaches {', '.join(names[:3])}{more}: it cannot learn")

    def _add_losses(self) -> float | None:
        """Move the losses since the last time from the device into the position, in order.

        This is where the device is waited for, and where a loss that is no number ends the run.

        Returns:
            the last one, the mean of the replicas'; None when there is none.
        """
        at, last = self.run.position, None
        found = self.processes.sum(torch.stack(self.losses)).tolist() if self.losses else []
        self.losses.clear()
        at.clipped = self.clipped.tolist()
        for step, losses in enumerate(found, at.step - len(found) + 1):
            for seed, loss in zip(self.run.seeds, losses, strict=True):
                if not math.isfinite(loss):
                    raise self._diverged(step, loss, seed)
            sums = at.loss_sums or [0.0] * len(losses)
            at.loss_sums = [a + b for a, b in zip(sums, losses, strict=True)]
            at.loss_count += 1
            last = float(sum(losses) / len(losses))
        return last

    def _diverged(self, step: int, loss: float, seed: int) -> Diverged:
        left = f"; {self.state_path} is the last good state" if self.state_path.exists() else ""
        which = f" with seed {seed}" if len(self.run.seeds) > 1 else ""
        return Diverged(
            f"the loss{which} is {loss} at step {step}{left}", "lower `--lr`, or set `--clip 1`"
        )

    def _save_state(self) -> None:
        """Save where the run is; the state counts rows, so these are durable before it."""
        self._add_losses()
        self.journal.sync()
        save_state(self.run, self.state_path, self.optimizers, self.slots)

    def _evaluate(self) -> None:
        """Rows of the whole dev split, and of the training loss since the last time."""
        run, at = self.run, self.run.position
        rows: list[Row] = []
        self._add_losses()
        if self.watch:
            self.watch.stop()
        if self.sharded:
            gather(run.model, run.shown)
        for replica, model in enumerate(self.shown.each if self.processes.first else []):
            rows += self.rows.evaluated(replica, model, self.baselines)
        at.loss_sums, at.loss_count = [], 0
        self.clipped.zero_()
        self.journal.write(rows)
        at.rows += len(rows)
        if rows:
            self.listener.evaluated(rows)
        if self.watch:
            self.watch.start(at.step)
        if self.who.count == 1 and rows:
            self._compare(next(one["value"] for one in rows if one["metric"] == "loss"))
        at.stopped = self.processes.any(at.stopped, self.device)

    def _compare(self, loss: float) -> None:
        """Keep the lowest dev loss, with its model if asked, and stop when it is not lowered."""
        run, at = self.run, self.run.position
        if at.best is None or loss < at.best:
            at.best, at.worse = loss, 0
            if run.dials["keep_best"]:
                save_model(run, best_path(run.out), at.step)
            return
        at.worse += 1
        if at.worse >= (run.dials["patience"] or math.inf):
            at.stopped = True

    def _interrupted(self) -> Interrupted:
        self._save_state()
        done = f"step {self.run.position.step} of {self.total}"
        return Interrupted(
            f"interrupted at {done}, saved in {self.state_path}",
            "the same command with `--resume` goes on from there",
        )

    def _finish(self) -> str:
        """The model, its last rows under its digest, and no more state than was asked for."""
        run, at = self.run, self.run.position
        if run.dials["reach"] and not at.reached:
            self.listener.note(f"`--reach {run.dials['reach']}` was not reached")
        if at.stopped:
            patient = at.worse < (run.dials["patience"] or math.inf)
            why = "`--max-time`" if patient else f"no lower dev loss in {at.worse} evaluations"
            self.listener.note(f"stopped after {at.step:,} of {self.total:,} steps: {why}")
        self._save_state()
        digest = save_model(run, run.out, at.step)
        self.journal.write(self.rows.ended(digest))
        self.journal.sync()
        if not self.keep_state:
            with suppress(FileNotFoundError):
                self.state_path.unlink()
        return digest
