"""Questions that are ready to click. The texts are our own."""

from __future__ import annotations

from typing import NamedTuple


class Example(NamedTuple):
    label: str
    passage: str
    question: str


_LIGHTHOUSE = (
    "The lighthouse on Skarv Island was lit for the first time in 1871, two winters after the "
    "barque Helena had gone down on the rocks below with her cargo of timber. Its first keeper was "
    "Ingrid Solheim, who lived there for thirty-four years with two goats and a telescope. She "
    "noted the weather four times a day, and her 61 notebooks are kept in the harbour museum."
)

_BRIDGE = (
    "Work on the bridge over the Orla began in the spring of 1926 and took four years. The "
    "engineers had planned for granite, but the quarry flooded, and so the piers were made of "
    "concrete. The bridge is 412 metres long and carries two lanes and a footpath. It was opened "
    "on 14 June 1930, in the rain, by a schoolteacher who had won the honour in a lottery."
)

_BAKERY = (
    "The bakery in Mill Street sells eleven kinds of bread. The rye loaf, which takes two days to "
    "make, is sold out by nine in the morning. The owner, Tomas Berg, learned the trade from his "
    "aunt and bakes in the oven that she built. On Sundays the shop is closed, and the neighbours "
    "bring their own dough to bake in the oven while it is still warm."
)

# Several windows of 384 tokens; what is asked for comes near the end.
_LIBRARY = """\
The library of Halvard began with a flood. In the autumn of 1887 the river rose into the cellars \
of the old customs house, and the merchants, who kept their account books there, carried them up \
to the first floor and left them. When the water was gone nobody wanted to carry them down again. \
A clerk named Matthias Roke put up shelves, sorted the books by year, and began to lend them to \
whoever asked. Few people did. But the room was dry and had a stove, and in winter it filled with \
people who read what there was: prices of herring, lists of ships, letters about late deliveries.

Within a few years they had brought books of their own. A ship's doctor left forty volumes of \
medicine. A widow gave her husband's novels, with his remarks in the margins, some of which are \
funnier than the novels. The school sent what it had replaced. Roke wrote every gift into a \
ledger, with the name of the giver and the weight of the book, since weight was what he was used \
to. By the end of the century the ledger had come to three tons, and the floor had to be held up \
by beams from a broken schooner.

The town took the library over in 1904. It paid for a reading room with tall windows, for gas \
light, and for a second librarian, and it moved the account books back into the cellar, where they \
had been before the flood. The reading room had places for sixty. Fishermen had the tables near \
the door, because of the smell, and the tables under the windows belonged by an old custom to \
those who mended nets while somebody read to them. Children were let in on Saturdays, if their \
hands were clean, and a basin stood at the entrance for those whose hands were not.

During the years of the war the library was a hospital. The books were stacked along the \
corridors as a wall against the cold, and patients who could get up took from it what they \
liked, so that the wall grew thinner where the beds were. After the war nearly all of them came \
back by post, from eleven countries, some with a pressed flower or a photograph between the \
pages. These are shown in a glass case beside the stairs. What never came back was the first \
volume of an atlas; the second has waited for it ever since, on a shelf that is otherwise empty.

A fire in the roof in the summer of 1953 destroyed the catalogue but hardly any books. For a year \
the librarians found everything by memory, and those who borrowed a book had to describe where it \
had stood. The new catalogue was typed on cards by volunteers, who met on Thursday evenings and \
were paid in soup. They wrote 48,000 cards. The cards are still in use, although everything has \
been in a computer since 1991, because the volunteers wrote on the back of each what they thought \
of the book.

The building that stands there now was designed by Elena Marchetti, an architect who had spent \
her childhood in the reading room. She kept the tall windows and the stove, and put a roof of \
glass over the yard where the customs officers had weighed their barrels. The scales are still \
there. Every year, on the day of the flood, the librarians put the newest book on them and write \
its weight into the ledger."""

EXAMPLES = (
    Example("A name", _LIGHTHOUSE, "Who was the first keeper of the lighthouse?"),
    Example("A number", _BRIDGE, "How long is the bridge?"),
    Example("A date", _BRIDGE, "When was the bridge opened?"),
    Example("No answer", _BAKERY, "What is the name of the owner's daughter?"),
    # Nobody is said to have: the model's answer is wrong, and near the threshold.
    Example("A close call", _BAKERY, "Who financed the bakery?"),
    Example("A long text", _LIBRARY, "Who designed the building that stands there now?"),
)
