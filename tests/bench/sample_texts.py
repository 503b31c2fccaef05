"""What the sample run's conversations say."""

from collections.abc import Mapping
from dataclasses import dataclass, field

CITIES = ("Lisbon", "Kyōto", "São Paulo", "Zürich", "Αθήνα", "Montréal", "Kraków", "Reykjavík", "東京", "Cairo")

HOSTILE = """\
Sure! Add this to your page:

```html
<script>document.title = "owned"; alert(1)</script>
<img src=x onerror="alert(2)"> </pre></details></template><!-- --> </script>
```
It says "hi" & 'bye', {{ 7 * 7 }} and {% raw %}.\x00\x1b[31m"""


@dataclass(frozen=True)
class Subject:
    """A question, a right and a wrong answer, and words that another model might choose."""

    ask: str
    answer: str
    wrong: str
    words: Mapping[str, str] = field(default_factory=dict)
    contains: str = ""
    tool: str = ""
    json: bool = False


SUBJECTS = (
    Subject(
        "I have three days in Lisbon in October. What should I not miss, and what is overrated?",
        "Three days in Lisbon go well like this:\n\n1. **Old town first.** Walk it early, before the tour groups, and"
        " stay for lunch where the menu is short.\n2. **The river and the museums.** Choose one large museum, not"
        " three. Book the time slot online.\n3. **A day out.** Take the regional train; it is cheaper than any tour"
        " and leaves every half hour.\n\nOverrated: the queue for the famous lift. The viewpoint above it is free.",
        "Lisbon is a great place to visit! There are many things to see and do there. You should visit the museums, the"
        " restaurants, the parks and the shops. Have a great trip!",
        {
            "go well like this": "are best spent like this",
            "early": "in the early morning",
            "cheaper": "less expensive",
            "Overrated": "What I would skip",
            "Choose": "Pick",
            "every half hour": "every 30 minutes",
        },
    ),
    Subject(
        "This query takes 40 s on 12 million rows. Why, and what do I change?\n\nselect customer_id, count(*)\nfrom"
        " orders\nwhere date(created_at) = '2025-05-01'\ngroup by customer_id;",
        "`date(created_at)` is computed for every row, so no index on `created_at` can be used: the database reads all"
        " 12 million rows. Ask for a range instead:\n\n```sql\nselect customer_id, count(*)\nfrom orders\nwhere"
        " created_at >= '2025-05-01'\n  and created_at <  '2025-05-02'\ngroup by customer_id;\n```\n\nThen create the"
        " index that covers it:\n\n```sql\ncreate index orders_created on orders (created_at, customer_id);\n```\n\n"
        "Look at `explain query plan` before and after: SCAN must become SEARCH … USING COVERING INDEX.",
        "The query is slow because of the GROUP BY. You can add an index on customer_id to make it faster:\n\n```sql\n"
        "create index idx_customer on orders (customer_id);\n```\n\nThis will make the query much faster.",
        {
            "is computed for every row": "has to be evaluated once per row",
            "Ask for a range instead": "Use a range",
            "Then create the index that covers it": "Add a covering index",
            "orders_created": "idx_orders_created",
            "Look at": "Compare",
        },
        contains="created_at >=",
    ),
    Subject(
        "What's the weather in Lisbon this weekend? Should I pack an umbrella?",
        "",
        "I'm sorry, but I don't have access to real-time weather. In Lisbon, the weather is usually mild. You may want"
        " to pack an umbrella just in case.",
        {"I'm sorry, but": "Unfortunately,", "usually": "generally"},
        tool="get_weather",
    ),
    Subject(
        "Write a Python function that gives the n-th Fibonacci number, fast for n = 1,000,000.",
        "Fast doubling needs about log2(n) steps on big integers:\n\n```python\ndef fibonacci(n: int) -> int:\n"
        '    """F(n), by fast doubling."""\n    if n < 0:\n        raise ValueError("n must not be negative")\n'
        "    a, b = 0, 1\n    for bit in bin(n)[2:]:\n        a, b = a * (2 * b - a), a * a + b * b\n"
        "        if bit == '1':\n            a, b = b, a + b\n    return a\n```\n\n`fibonacci(1_000_000)` takes about"
        " 10 ms; the number has 208,988 digits. To print it, raise `sys.set_int_max_str_digits`.",
        "Here is a function:\n\n```python\ndef fib(n):\n    if n <= 1:\n        return n\n    return fib(n-1) +"
        " fib(n-2)\n```\n\nThis uses recursion to compute the Fibonacci number efficiently.",
        {
            "needs about": "takes roughly",
            "steps on": "multiplications of",
            "takes about": "runs in about",
            "F(n), by fast doubling": "Return the n-th Fibonacci number",
            "must not be negative": "must be >= 0",
        },
        contains="2 * b - a",
    ),
    Subject(
        "Extract name, amount and due date as JSON: “Please pay €1.240,50 to Müller & Söhne GmbH by the 3rd of July.”",
        '{"name": "Müller & Söhne GmbH", "amount": 1240.50, "currency": "EUR", "due": "2025-07-03"}',
        'Here is the JSON you asked for:\n\n{"name": "Muller & Sohne", "amount": "1.240,50", "due": "3 July"}',
        {"2025-07-03": "07-03"},
        json=True,
    ),
    Subject(
        "Translate into German, formal: “We've moved your appointment in Lisbon to Tuesday at half past two. Sorry for"
        " the short notice.”",
        "Wir haben Ihren Termin in Lisbon auf Dienstag, 14:30 Uhr, verlegt. Bitte entschuldigen Sie die kurzfristige"
        " Mitteilung.",
        "Wir haben deinen Termin in Lisbon auf Dienstag um halb zwei verschoben. Sorry für die kurze Nachricht.",
        {
            "verlegt": "verschoben",
            "Mitteilung": "Benachrichtigung",
            "Bitte entschuldigen Sie": "Wir entschuldigen uns für",
        },
        contains="14:30",
    ),
    Subject(
        "Explain to my eight-year-old why the sky is blue and sunsets are red. 👧🏽🌅",
        "Sunlight looks white, but it is a mix of all the colours of the rainbow. 🌈 When it flies through the air it"
        " bumps into tiny bits of air. Blue light is easily bumped around, so it comes at you from everywhere: the"
        " whole sky looks blue.\n\nIn the evening the light has a much longer way through the air. By then nearly all"
        " the blue was bumped away, and what is left over is red and orange. That's the sunset!",
        "The sky is blue because of Rayleigh scattering, whose intensity is proportional to λ⁻⁴. At sunset the optical"
        " path length increases.",
        {
            "a mix of": "made of",
            "flies": "travels",
            "easily bumped around": "scattered the most",
            "tiny bits of air": "tiny molecules",
            "bumped away": "scattered away",
            "a much longer way": "to travel further",
        },
    ),
    Subject(
        "Summarise in one sentence: The board of the Lisbon ferry company met on Monday. After two hours it agreed to"
        " buy four electric ferries, to be delivered from 2027, and to close the oldest line, which carries 300 people"
        " a day, against the votes of the unions' two members.",
        "The Lisbon ferry company will buy four electric ferries from 2027 and close its oldest line, against the votes"
        " of the unions.",
        "The board met on Monday for two hours to talk about ferries and the unions were there.",
        {
            "will buy": "has decided to buy",
            "from 2027": "for delivery from 2027",
            "of the unions": "of two union members",
        },
        contains="2027",
    ),
)
