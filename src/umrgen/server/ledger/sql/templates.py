"""The store of templates."""

from dataclasses import asdict

from umrgen.server.ledger.errors import TemplatesFull
from umrgen.server.ledger.sql.database import Database, Transaction
from umrgen.server.ledger.values import Template

__all__ = ["SqlTemplateStore"]


def _put(transaction: Transaction, template: Template, cap: int) -> None:
    row = transaction.connection.one("count_templates", {"session_id": template.session_id, "name": template.name})
    if row is not None and row[0] >= cap:
        raise TemplatesFull
    transaction.connection.send("put_template", asdict(template))


class SqlTemplateStore:
    """Implements `TemplateStore`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, template: Template, *, cap: int) -> None:
        await self._database.write(lambda transaction: _put(transaction, template, cap))

    async def get(self, session_id: str, name: str) -> Template | None:
        values = {"session_id": session_id, "name": name}
        row = await self._database.read(lambda connection: connection.one("get_template", values))
        return Template(*row) if row else None

    async def of_session(self, session_id: str) -> list[Template]:
        values = {"session_id": session_id}
        rows = await self._database.read(lambda connection: connection.all("templates_of_session", values))
        return sorted((Template(*row) for row in rows), key=lambda template: template.name)

    async def remove(self, session_id: str, name: str) -> bool:
        values = {"session_id": session_id, "name": name}
        return await self._database.write(
            lambda transaction: transaction.connection.run("delete_template", values) == 1
        )
