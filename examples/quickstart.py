"""One agent, one tool that must never happen twice, one SQLite file. Run it twice: the order is paid once.

python examples/quickstart.py
shipworthy run examples/quickstart.py:agent "Pay order 17." --tenant acme --user alice
shipworthy runs list --store sqlite:quickstart.db --tenant acme
"""

import asyncio

from shipworthy import Agent, RunContext, ScriptedModel, SqliteRuntime, ToolCall, tool


@tool(effect="once")
async def charge(ctx: RunContext, order: str, cents: int) -> str:
    """Charge the customer for an order."""
    print(f"(charging {ctx.scope.user} of {ctx.scope.tenant} for order {order})")
    return f"Charged {cents / 100:.2f}."


# A real one in its place: model = "anthropic:claude-sonnet-4-5"
model = ScriptedModel([ToolCall("charge", {"order": "17", "cents": 5000}), "Order 17 is paid."])

agent = Agent(
    "You take payments.", model=model, tools=[charge], runtime=SqliteRuntime("quickstart.db"), name="cashier"
)


async def main() -> None:
    result = await agent.run("Pay order 17.", tenant_id="acme", user_id="alice", run_id="order-17")
    print(f"{result.run_id} {result.status}: {result.output}")
    await agent.runtime.close()


if __name__ == "__main__":
    asyncio.run(main())
