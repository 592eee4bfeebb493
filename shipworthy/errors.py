"""Every exception of the framework, in one tree. Each says what happened and what to do about it.

ShipworthyError
├── ConfigurationError      the developer's code or settings: fix them and build again
│   ├── EffectRequired, DuplicateTool, InvalidTool, InvalidOutputType, UnknownModel, MissingExtra, MissingKey
│   ├── UnknownPrice
│   ├── InvalidHook, NotInTool
│   └── AgentInUse, RealModelRefused, ScriptError
├── InputError              one call's arguments: nothing was started
│   ├── EmptyPrompt, IdentityMissing, InvalidPrompt, InvalidHistory, InvalidOption, InvalidDeps
│   ├── RunConflict, RunNotFound, RunBusy, NotFinished, SettlementRefused
│   └── AnswerRefused, CheckpointRefused, SessionPaused
├── RunError                a run that could not give its output (`RunResult.raise_for_status`)
│   └── RunFailed, RunStopped, BudgetExceeded (a RunStopped), RunPaused
├── StoreError              the journal: what was acknowledged is safe
│   ├── StoreLocked, StoreReadOnly, StoreFull, StoreCorrupt, StoreForeign, StoreTooOld, StoreClosed
│   ├── StoreUnavailable, StoreRefused
│   ├── CommitUncertain     the fate of a commit is unknown: resume reads the journal back
│   ├── Fenced              another worker owns the run now
│   ├── HoldRefused         the ledger's no to one reservation; the batch was not written
│   ├── AuditError          the audit log: what it cannot hold does not happen
│   │   └── AuditUnavailable, AuditDamaged, AuditKeyWrong, AuditClosed
│   └── UnknownEvent, JournalDamaged
├── LedgerError             the budget's ledger: what was not reserved was not sent
│   └── LedgerFull, LedgerUnavailable
├── MemoryProblem           long-term memory: nothing that was acknowledged is lost
│   ├── MemoryStoreError
│   │   └── MemoryUnavailable, MemoryReadOnly, MemoryForeign, MemoryFull, MemoryConflict, RecordTooLarge, MemoryClosed
│   └── EmbedderError, EmbedderChanged, ErasureIncomplete
├── AnchorError             a place that keeps the audit log's checkpoints: the log itself is safe
│   └── AnchorRefused       a checkpoint that would take back what is kept
├── DriverError             the engine that takes runs from step to step (DBOS, Temporal): their journals are safe
│   └── DriverUnavailable
├── ModelError              one attempt on the wire
│   └── ModelUnavailable, RateLimited, IncompleteAnswer, RequestRejected
├── ToolSignal              raised by tool bodies, spoken to the model
│   └── NotDone, ModelRetry, InvalidArguments, InvalidOutput, UnserialisableResult, AnswerUnfit
└── MissingTool             a journalled call names a tool that the code no longer has
"""

from __future__ import annotations

from typing import Any


class ShipworthyError(Exception):
    """Root of the tree. `what` happened, and the `fix`; both are in the message."""

    fix: str = ""

    def __init__(self, what: str, *, fix: str | None = None) -> None:
        self.what = what
        if fix is not None:
            self.fix = fix
        super().__init__(f"{what} {self.fix}".rstrip())


# ---------------------------------------------------------------------------------------- configuration


class ConfigurationError(ShipworthyError):
    """The agent cannot be built, or used, as it is written."""


class EffectRequired(ConfigurationError):
    """A tool does not say what repeating it means."""

    fix = (
        'Say what repeating it means: @tool(effect="read") changes nothing; "idempotent" is safe to repeat with '
        'the same ctx.idempotency_key; "once" must never happen twice.'
    )


class DuplicateTool(ConfigurationError):
    """Two tools have one name."""

    fix = 'Rename one of them: @tool(effect=..., name="...").'


class InvalidTool(ConfigurationError):
    """A function cannot be made into a tool."""


class InvalidOutputType(ConfigurationError):
    """`output=` is not a type that can be validated."""


class UnknownModel(ConfigurationError):
    """A model string that no adapter answers to."""

    fix = "Use 'openai:<model>', 'anthropic:<model>', or pass a Model object."


class UnknownPrice(ConfigurationError):
    """A budget limits money, and nobody knows what the model costs."""

    fix = (
        'Say it: StandardBudget(..., prices=PriceTable({"provider:model": price_usd(input=3, output=15)})), FREE for a '
        "local model, or PriceTable(otherwise=...) for a declared worst case."
    )


class MissingExtra(ConfigurationError):
    """An optional package is not installed."""


class MissingKey(ConfigurationError):
    """A provider's API key is not set."""


class AgentInUse(ConfigurationError):
    """An agent is immutable after its first run."""

    fix = "Register tools and validators before the first run, or build a second Agent."


class InvalidHook(ConfigurationError):
    """A function cannot be a hook or an approval handler."""


class NotInTool(ConfigurationError):
    """A person was to be asked where no call could wait for the answer."""

    fix = "Call it in the body of a tool that an agent runs, and not in a thread or a task that outlives the body."


class RealModelRefused(ConfigurationError):
    """A real provider was about to be called where that is refused (by default: under pytest)."""

    fix = (
        "Use ScriptedModel, EchoModel or mock() from shipworthy.testing; where the real call is meant, wrap it in "
        "`with shipworthy.testing.allow_model_calls():` or set SHIPWORTHY_ALLOW_MODEL_CALLS=1."
    )


class ScriptError(ConfigurationError):
    """A test's script and its run disagree: a turn was asked for that is not there, or was left over."""

    fix = "Add or remove turns in the ScriptedModel."


# ------------------------------------------------------------------------------------------------ input


class InputError(ShipworthyError):
    """A call was refused before anything was started."""


class EmptyPrompt(InputError):
    """The prompt has no content."""

    fix = "Pass a text that is not blank, or at least one part."


class InvalidPrompt(InputError):
    """The prompt is of a type or an encoding that no provider can be sent."""

    fix = "Pass a str, or a sequence of str, Text, Image and File parts; decode bytes to valid Unicode first."


class InvalidHistory(InputError):
    """`message_history` is not a valid conversation, or competes with `session_id`."""


class IdentityMissing(InputError):
    """An identity is incomplete, or required and absent."""

    fix = "Pass tenant_id=, with user_id= and session_id= as far as they exist; a session belongs to a user."


class InvalidOption(InputError):
    """An option of a call is not of a kind that could work."""


class InvalidDeps(InputError):
    """`deps` is not what the agent declares, or missing."""

    fix = "Pass run(..., deps=...) of the declared deps_type, or give the Agent a deps= factory."


class RunConflict(InputError):
    """A run with this id exists, with another user or another input."""

    fix = "Choose another run_id, or repeat the call with the same user and the same input to get its result."


class RunNotFound(InputError):
    """No run of this tenant has this id (a run of another tenant gives the same answer)."""

    fix = "Check run_id and tenant_id; `shipworthy runs list --tenant ...` shows a tenant's runs."


class RunBusy(InputError):
    """The run is being driven by a live worker."""

    fix = "Follow it with agent.stream(run_id=..., tenant_id=...), or resume it when that worker is gone."


class NotFinished(InputError):
    """The result was asked for before the run ended."""

    fix = "Read the stream to its end, or leave its `async with` block, before asking for the result."


class SettlementRefused(InputError):
    """A settlement names a call that is not in doubt, or comes while the effect could still happen."""


class AnswerRefused(InputError):
    """An answer, or a signed approval, that the paused run does not wait for; the run waits on."""

    fix = "Look at the pending calls of the latest result: agent.resume(..., answer=) answers exactly those."


class CheckpointRefused(InputError):
    """A checkpoint that is not one of this store's, of this tenant's, or of the pause that the run is in."""

    fix = "Use the checkpoint of the latest result once, or resume by run_id= and tenant_id=; the run is as it was."

    def __init__(self, what: str = "The checkpoint cannot be used.") -> None:
        super().__init__(what)


class SessionPaused(InputError):
    """The session has a run that waits for somebody, and the agent takes no other message until then."""

    fix = (
        "Answer or cancel that run first; without Tuning(wait_for_paused=True) a paused run holds nobody up."
    )


# ------------------------------------------------------------------------------------------- run outcomes


class RunError(ShipworthyError):
    """A run that has no output to give; raised by `RunResult.raise_for_status()`."""


class RunFailed(RunError):
    """The run failed."""


class RunStopped(RunError):
    """The run was stopped or cancelled before it was complete."""


class BudgetExceeded(RunStopped):
    """The run stopped because a budget does not afford its next call.

    `limit` names it as in BudgetConfig. `retry_after`: seconds until its window opens again, None if it never does.
    """

    fix = "Raise the limit, or run again when its window opens; result.messages has what the run found out."

    def __init__(self, what: str, *, limit: str, retry_after: float | None = None) -> None:
        super().__init__(what)
        self.limit, self.retry_after = limit, retry_after


class RunPaused(RunError):
    """The run waits for somebody."""

    fix = (
        "Look at result.pending, and resume it: await agent.resume(result.checkpoint, answer=...) for approvals and "
        "questions, settle={address: Happened(result) | DidNotHappen()} for calls in doubt."
    )


class MissingTool(ShipworthyError):
    """A journalled call names a tool that the agent no longer has."""

    fix = "Give the agent the tool again (same name), or settle the call, and resume; nothing was lost."


# ------------------------------------------------------------------------------------------------- store


class StoreError(ShipworthyError):
    """The journal refused or failed. What was acknowledged before is not affected."""


class StoreLocked(StoreError):
    """Another program holds the database."""

    fix = "Close the other program, or raise busy_timeout=; several Shipworthy workers may share one file."


class StoreUnavailable(StoreError):
    """The database server cannot be reached, or does not take connections now."""

    fix = "Check address, role and password, and that the server runs and has room; runs are resumed when it is back."


class StoreRefused(StoreError):
    """The database server does not allow what the store needs, or allows more than it may."""


class StoreReadOnly(StoreError):
    """The database file, or its folder, cannot be written."""

    fix = "Give this process write access to the file and its folder (WAL mode writes beside the file)."


class StoreFull(StoreError):
    """No room is left for the journal."""

    fix = "Free space (`shipworthy runs prune`), then resume the run: what was acknowledged is kept."


class StoreCorrupt(StoreError):
    """The database file is damaged."""

    fix = "Restore the file from a backup; do not delete its -wal file, which may hold acknowledged steps."


class StoreForeign(StoreError):
    """The file is not a Shipworthy database, or one of a newer format."""

    fix = "Point the runtime to another path, or upgrade shipworthy; the file was not changed."


class StoreTooOld(StoreError):
    """The SQLite library is too old to be trusted with a WAL."""

    fix = "Install apsw>=3.54.1.0, which brings its own SQLite."


class StoreClosed(StoreError):
    """The runtime was closed."""

    fix = "Keep the runtime open while runs are in flight; opening it again goes on with the same file."


class CommitUncertain(StoreError):
    """A commit failed in a way that leaves its fate unknown; the run stopped in this process."""

    fix = "Resume the run: await agent.resume(run_id, tenant_id=...) reads the journal back and goes on from it."


class Fenced(StoreError):
    """Another worker has taken the run over; nothing of this one was written."""

    fix = "Nothing is to be done here: the other worker carries the run on. Follow it with agent.stream(run_id=...)."


class HoldRefused(StoreError):
    """A batch came with a reservation that the ledger refused (`refused`); nothing of it was written."""

    def __init__(self, refused: Any) -> None:
        super().__init__(f"The reservation was refused: {refused}.")
        self.refused = refused


class UnknownEvent(StoreError):
    """The journal has an event that this release does not know; the run is left alone."""

    fix = "Upgrade shipworthy on this worker to at least the release that wrote the run."


class JournalDamaged(StoreError):
    """The journal of a run has a gap or cannot be decoded."""

    fix = "Restore the database from a backup; the run is not continued from a damaged journal."


class AuditError(StoreError):
    """An entry could not be made durable in the audit log, so what it tells of was not done, nor recorded."""


class AuditUnavailable(AuditError):
    """The audit log cannot be written now."""

    fix = "Give it room, write access or its server back, and resume; nothing that was acknowledged is lost."


class AuditDamaged(AuditError):
    """The audit log is not as it was left, so nothing is appended that would cover that up."""

    fix = "Run `shipworthy audit verify` on it and keep its files as they are; then begin another log."


class AuditKeyWrong(AuditError):
    """The audit log goes on under a key that this process does not have."""

    fix = "Give it the secret, or the sealed key file, that the log's other writers use."


class AuditClosed(AuditError):
    """The audit log was closed, or was not opened."""

    fix = "Use the log while its agent runs, or `await log.open()` first."


# ------------------------------------------------------------------------------------------------ ledger


class LedgerError(ShipworthyError):
    """The ledger of a budget could not be asked. What was not reserved was not sent; the run can be resumed."""


class LedgerFull(LedgerError):
    """An in-memory ledger has no room for another account, and forgets none that still matters."""

    fix = "Raise InMemoryLedger(max_users=...), or keep the ledger in SQLite, Postgres or Redis."


class LedgerUnavailable(LedgerError):
    """The ledger cannot be reached, or does not answer."""

    fix = "Check its address and that it runs, then resume the run: nothing was sent that was not reserved."


# ------------------------------------------------------------------------------------------------ memory


class MemoryProblem(ShipworthyError):
    """Long-term memory could not be asked, or told."""


class MemoryStoreError(MemoryProblem):
    """The store of a memory failed; what it acknowledged is durable."""

    fix = "Look at the server or the file it is in; the run goes on when it is resumed."


class MemoryUnavailable(MemoryStoreError):
    """The store is away, or takes too long."""


class MemoryReadOnly(MemoryStoreError):
    """The store can be read only."""

    fix = "Give the process the right to write there."


class MemoryForeign(MemoryStoreError):
    """What is there is not a memory of this format."""

    fix = "Name another place, or use the release that made it."


class MemoryFull(MemoryStoreError):
    """No room is left."""

    fix = "Make room, or raise the bound; nothing was written."


class MemoryConflict(MemoryStoreError):
    """Somebody else wrote to the partition meanwhile; nothing was written."""

    fix = "Read it again, and try again."


class RecordTooLarge(MemoryStoreError):
    """One thing is larger than the store takes; nothing was written."""

    fix = "Split it, or keep the text elsewhere and remember where it is."


class MemoryClosed(MemoryStoreError):
    """The store was closed."""

    fix = "Open it again, or use `async with agent` around all that uses it."


class EmbedderError(MemoryProblem):
    """Texts could not be made into vectors."""

    fix = "Look at the embedder; without vectors, memory is found by its words."


class EmbedderChanged(MemoryProblem):
    """The store has vectors of another embedder than the one that is configured."""

    fix = "Run `shipworthy memory reindex` with the new embedder, or go back to the old one."


class ErasureIncomplete(MemoryProblem):
    """Something of what was to be erased is still there."""

    fix = "Do what the message says, and erase again: it goes on where it was."


class AnchorError(ShipworthyError):
    """An anchor did not take a checkpoint, or does not give those that it has."""


class AnchorRefused(AnchorError):
    """A checkpoint would take back what the anchor keeps: it covers less of the log, or another history. Sending it
    again cannot help."""

    fix = (
        "Run `shipworthy audit verify` with this anchor: the log was put back or rewritten, unless it verifies; then "
        "an older checkpoint only came late."
    )


# ------------------------------------------------------------------------------------------------ driver


class DriverError(ShipworthyError):
    """The engine that runs were handed to failed or refused. What is in the journal is safe: resume the run."""


class DriverUnavailable(DriverError):
    """That engine cannot be reached."""

    fix = "Check its address, and that it runs; the run is in the journal, and is resumed when it is back."


# ------------------------------------------------------------------------------------------------- model


class ModelError(ShipworthyError):
    """An attempt on the wire failed. `retry_after` is None where trying again cannot help.

    Units: `retry_after` in seconds from now, 0.0 for "at once or by the caller's own backoff". `billable`: whether the
    provider may bill the attempt; False where it surely does not, because it refused it or never saw it. `usage` (a
    Usage, or None): what the provider reported of it all the same, before or with the error.
    """

    retry_after: float | None = None
    billable: bool = True
    usage: Any = None

    def __init__(
        self,
        what: str,
        *,
        fix: str | None = None,
        retry_after: float | None = None,
        billable: bool | None = None,
        usage: Any = None,
    ) -> None:
        super().__init__(what, fix=fix)
        if retry_after is not None:
            self.retry_after = retry_after
        if billable is not None:
            self.billable = billable
        if usage is not None:
            self.usage = usage


class ModelUnavailable(ModelError):
    """The provider could not be reached, timed out, or answered with a server error."""

    retry_after = 0.0
    fix = "Check the provider's status and base_url; the attempt is retried by itself."


class RateLimited(ModelError):
    """The provider asked to slow down."""

    retry_after = 0.0
    billable = False
    fix = "Raise the provider's limit or lower concurrency; the attempt is retried by itself."


class IncompleteAnswer(ModelError):
    """The stream ended without its terminal event; nothing of it was used."""

    retry_after = 0.0
    fix = "The attempt is retried by itself; if it recurs, look at proxies between you and the provider."


class RequestRejected(ModelError):
    """The provider refused the request itself (wrong key, unknown model, invalid parameter)."""

    billable = False

    fix = "Correct the request as the provider's message says."


# ------------------------------------------------------------------------------------------ tool signals


class ToolSignal(ShipworthyError):
    """Raised by a tool's body to say something to the model."""

    def __init__(self, what: str) -> None:
        super().__init__(what)


class NotDone(ToolSignal):
    """The effect certainly did not happen; the model is told the reason. The one error of a `once` body that
    does not put the call in doubt."""


class ModelRetry(ToolSignal):
    """The model is told what to change and may call again. In a `once` body it puts the call in doubt like any other
    exception: raise `NotDone` there, which promises that nothing happened."""


class InvalidArguments(ToolSignal):
    """A call's arguments do not fit the tool's parameters; the model is told which and why."""


class InvalidOutput(ToolSignal):
    """An answer is not a valid output; the model is told why. Validators raise it to reject a value."""


class UnserialisableResult(ToolSignal):
    """A body returned, and what it returned cannot be told to a model. The effect happened: this is never raised
    for a body that failed, and a body that raises it itself is taken for one that failed."""


class AnswerUnfit(ToolSignal):
    """A person's answer is not of the type that the tool's body asks for; the call goes on waiting."""


class IdentityWarning(UserWarning):
    """A run named nobody and got a fresh scope of its own."""
