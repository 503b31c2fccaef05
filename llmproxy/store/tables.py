"""Our own tables, beside `llm`'s in the same file: exchanges, and what finding threads needs."""

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

migrations = Migrations("llmproxy")


@migrations()
def m001_exchanges(db: Database) -> None:
    db.execute(
        """
        create table llmproxy_exchanges (
            id text primary key,
            turn_id text,
            thread_id text,
            upstream text,
            api text,
            method text,
            path text,
            model text,
            stream integer,
            status integer,
            outcome text,
            error text,
            reason text,
            notes text,
            finish_reason text,
            input_tokens integer,
            output_tokens integer,
            token_details text,
            truncated integer,
            started_utc text,
            first_byte_ms real,
            first_token_ms real,
            duration_ms real,
            request_bytes integer,
            response_bytes integer,
            client text,
            session text,
            user_agent text,
            request_headers text,
            response_headers text,
            request_body blob,
            response_body blob,
            response_pieces text
        )
        """
    )
    db.execute("create index llmproxy_exchanges_turn on llmproxy_exchanges(turn_id)")
    db.execute("create index llmproxy_exchanges_thread on llmproxy_exchanges(thread_id)")


@migrations()
def m002_turns(db: Database) -> None:
    # What finding a turn's thread needs, an index for each question: see parents.py and threads.py.
    db.execute(
        """
        create table llmproxy_turns (
            turn_id text primary key,
            exchange_id text,
            parent_turn_id text,
            parent_exchange_id text,
            thread_id text,
            kin blob,
            answer_key blob,
            answer_key_without_ids blob,
            answer_exact blob,
            wanted_key blob,
            wanted_key_without_ids blob,
            wanted_exact blob,
            wanted_call text,
            response_id text,
            conversation text,
            session text
        )
        """
    )
    for column in ("answer_key", "answer_key_without_ids"):
        # Many turns may have the same: the newest are found without looking at the others.
        db.execute(
            f"create index llmproxy_turns_{column} on llmproxy_turns({column}, turn_id) where {column} is not null"
        )
    for column in (
        "exchange_id",
        "thread_id",
        "wanted_key",
        "wanted_key_without_ids",
        "wanted_call",
        "response_id",
        "conversation",
    ):
        db.execute(f"create index llmproxy_turns_{column} on llmproxy_turns({column}) where {column} is not null")
    db.execute(
        "create index llmproxy_turns_parent on llmproxy_turns(parent_exchange_id, thread_id)"
        " where parent_exchange_id is not null"
    )
    db.execute(
        "create table llmproxy_tool_calls (tool_call_id text, turn_id text, primary key (tool_call_id, turn_id))"
        " without rowid"
    )


@migrations()
def m003_tool_sets(db: Database) -> None:
    # Thirty tools sent with each of two hundred requests are one set: `llm`'s `turn_tools` would take 2.4 KB a turn.
    # A turn has rows there where its thread begins or its tools change; here every turn has its own.
    db.execute("create table llmproxy_tool_sets (id integer primary key, tools text unique)")
    db.execute("alter table llmproxy_turns add column tool_set integer references llmproxy_tool_sets(id)")
    db.execute(
        """
        create view llmproxy_turn_tools as
        select llmproxy_turns.turn_id, tool.key as position, tools.id as tool_id, tools.name, tools.description,
               tools.input_schema
          from llmproxy_turns
          join llmproxy_tool_sets on llmproxy_tool_sets.id = llmproxy_turns.tool_set
          join json_each(llmproxy_tool_sets.tools) as tool
          join tools on tools.id = tool.value
        """
    )


@migrations()
def m004_ask(db: Database) -> None:
    # How a request came where not by a provider's path (`/v1/ask`), and the ids that it was asked with.
    for column in ("via", "ask_client_id", "ask_user_id"):
        db.execute(f"alter table llmproxy_exchanges add column {column} text")


@migrations()
def m005_items(db: Database) -> None:
    # The provider's id of a turn's last item, and of the last one that its request sends back: among equals, the same.
    for column in ("answer_item", "echoed_item"):
        db.execute(f"alter table llmproxy_turns add column {column} text")


@migrations()
def m006_references(db: Database) -> None:
    # The items of answers that later requests may name in place of sending them: see items.py.
    db.execute(
        "create table llmproxy_items (item_id text, turn_id text, first integer, parts integer,"
        " primary key (item_id, turn_id)) without rowid"
    )
    db.execute("alter table llmproxy_turns add column wanted_item text")
    db.execute("create index llmproxy_turns_wanted_item on llmproxy_turns(wanted_item) where wanted_item is not null")


@migrations()
def m007_session(db: Database) -> None:
    # Of more equal answers than are looked at ("Hello!"), those of one session.
    db.execute(
        "create index llmproxy_turns_session on llmproxy_turns(session, answer_key_without_ids, turn_id)"
        " where session is not null and answer_key_without_ids is not null"
    )


@migrations()
def m008_instructions(db: Database) -> None:
    # So many of the first messages of a turn's input the provider does not carry over. Null: an older version wrote it.
    db.execute("alter table llmproxy_turns add column instructions integer")


@migrations()
def m009_header_sets(db: Database) -> None:
    # A program's header fields hardly differ from one exchange to the next: see header_sets.py. The table of exchanges
    # gets another name, and a view its old one. Nothing is rewritten: the rows that are there keep their own fields.
    db.execute("create table llmproxy_header_sets (id integer primary key, names blob, fields text)")
    db.execute("create index llmproxy_header_sets_names on llmproxy_header_sets(names)")
    columns = [row[1] for row in db.execute("pragma table_info(llmproxy_exchanges)").fetchall()]
    # Views of the user's that read `llmproxy_exchanges` are to go on doing so, and broken ones not to stand in the way.
    ((before,),) = db.execute("pragma legacy_alter_table").fetchall()
    db.execute("pragma legacy_alter_table = on")
    db.execute("alter table llmproxy_exchanges rename to llmproxy_exchange_rows")
    db.execute(f"pragma legacy_alter_table = {before}")
    for which in ("request", "response"):
        db.execute(f"alter table llmproxy_exchange_rows add column {which}_header_set integer")
        db.execute(f"alter table llmproxy_exchange_rows add column {which}_headers_changed text")
    shown = {column: f'"{column}"' for column in columns} | {
        f"{which}_headers": f"""
            case when {which}_header_set is null then {which}_headers else (
                select json_group_array(json_array(
                    json_extract(field.value, '$[0]'),
                    coalesce(
                        json_extract({which}_headers_changed, '$."' || field.key || '"'),
                        json_extract(field.value, '$[1]')
                    )
                ))
                from llmproxy_header_sets, json_each(llmproxy_header_sets.fields) as field
                where llmproxy_header_sets.id = {which}_header_set
            ) end as {which}_headers"""
        for which in ("request", "response")
    }
    # `rowid`, because a table has one and a view has none: whoever orders by it goes on doing so.
    shown["rowid"] = "rowid"
    db.execute(f"create view llmproxy_exchanges as select {', '.join(shown.values())} from llmproxy_exchange_rows")
    # Whoever keeps the database small by hand goes on doing so.
    db.execute(
        "create trigger llmproxy_exchanges_delete instead of delete on llmproxy_exchanges"
        " begin delete from llmproxy_exchange_rows where id = old.id; end"
    )


@migrations()
def m010_fewer_indices(db: Database) -> None:
    # Nothing looks for the exchanges of a thread, whose turns `llm` has an index of.
    db.execute("drop index llmproxy_exchanges_thread")
    # An exchange's first turn has its id: only the others are looked for by it.
    db.execute("drop index llmproxy_turns_exchange_id")
    db.execute("create index llmproxy_turns_exchange_id on llmproxy_turns(exchange_id) where exchange_id != turn_id")
