"""The words the demo's requests are filled with. Every fourth value of each pool is kept out of training: held-out prompts name
only people, places and goods that no adapter has seen. So that adapters learn to copy words rather than a list of them, training
also meets coined ones."""

from __future__ import annotations

import random
from typing import Final


def _values(text: str) -> tuple[str, ...]:
    """`a, b c` as ("a", "b c")."""
    return tuple(value.strip() for value in text.split(","))


def _pairs(text: str) -> tuple[tuple[str, str], ...]:
    """`a:b, c d:e` as (("a", "b"), ("c d", "e"))."""
    return tuple((left, right) for left, right in (value.split(":", 1) for value in _values(text)))


_CITIES = _values(
    """
    Oslo, Bergen, Turin, Lyon, Porto, Seville, Ghent, Bremen, Krakow, Vilnius, Tartu, Malmo, Aarhus, Tampere, Leeds, Cork,
    Nantes, Basel, Graz, Brno, Split, Varna, Izmir, Haifa, Cairo, Tunis, Rabat, Dakar, Accra, Lagos, Nairobi, Kigali, Durban,
    Lima, Quito, Bogota, Cusco, Salta, Recife, Natal, Boston, Denver, Austin, Tulsa, Reno, Fresno, Tampa, Dallas, Ottawa,
    Regina, Perth, Hobart, Cairns, Osaka, Kyoto, Nagoya, Busan, Taipei, Hanoi, Manila, Delhi, Mumbai, Chennai, Madrid, Milan,
    Vienna, Warsaw, Dublin, Athens, Lisbon, Zurich, Geneva
    """
)

_FIRST_NAMES = _values(
    """
    Anna, Peter, Maria, Lukas, Ingrid, Omar, Sofia, Daniel, Yuki, Carlos, Elena, Samuel, Fatima, Victor, Nora, Hugo, Clara,
    Ivan, Leila, Marco, Julia, Felix, Amina, Oscar, Greta, Simon, Rosa, Tomas, Helen, Karim, Laura, Erik, Priya, Adam, Mina,
    Paul, Vera, Jonas, Lucia, Arthur, Emma, Rafael, Olga, David, Nadia, Henry, Alice, Bruno, Sara, Martin, Eva, Joseph, Irene,
    Walter, Diana, Frank, Kate, Leon, Ruth, Gustav, Ada, Noah, Jane, Robert
    """
)

_LAST_NAMES = _values(
    """
    Berg, Silva, Novak, Tanaka, Moreau, Rossi, Haddad, Lind, Kowalski, Murphy, Garcia, Schmidt, Okafor, Petrov, Jensen, Costa,
    Weber, Nguyen, Khan, Dubois, Marino, Olsen, Fischer, Mensah, Ivanov, Brown, Lopez, Keller, Sato, Mehta, Walsh, Romano,
    Larsen, Cohen, Fontaine, Park, Santos, Vogel, Diallo, Hansen, Baker, Torres, Wolf, Yilmaz, Mills, Ferrari, Nielsen,
    Clarke, Ortiz, Bauer, Ali, Popov, Reed, Navarro, Stein, Hill, Kaya, Duarte, Holm, Fox, Lambert, Ruiz, Frost, Young
    """
)

_ITEMS = _values(
    """
    apples, printer paper, copper wire, garden chairs, coffee beans, winter boots, olive oil, wooden toys, desk lamps,
    rubber gloves, tea, steel bolts, face masks, solar panels, oranges, bicycle tyres, white paint, kitchen knives, blankets,
    batteries, glass jars, canned tomatoes, soap, floor tiles, notebooks, dried figs, power cables, wool socks, honey,
    bandages, rice, plastic pipes, candles, laptops, frozen fish, cotton shirts, door handles, potatoes, water filters,
    school bags, cement, lemons, headphones, towels, cheese, light bulbs, almonds, umbrellas
    """
)

_RESTAURANTS = _values(
    """
    Luigi's, The Blue Door, Casa Verde, Golden Dragon, The Old Mill, Sakura House, Le Petit Jardin, Harbour Grill,
    The Red Lion, Taverna Nikos, Green Olive, The Copper Pot, La Paloma, Spice Garden, The Corner Table, Bella Napoli,
    River Cafe, The Silver Fork, Maison Rouge, Sunset Terrace, Little Saigon, The Black Swan, Olive Branch, Mountain View
    """
)

POOLS: Final = {
    "city": _CITIES,
    "first_name": _FIRST_NAMES,
    "last_name": _LAST_NAMES,
    "item": _ITEMS,
    "restaurant": _RESTAURANTS,
}
"""The pools that are split between training and held-out prompts."""

_QUALITIES = _values(
    """
    red, blue, green, yellow, grey, brown, small, large, heavy, light, round, square, cheap, used, fresh, dried, smoked,
    sweet, Dutch, Danish, Swiss, Roman, silver, golden, copper, marble, velvet, linen, bamboo, rubber, folding, painted,
    striped, spare, antique
    """
)
_ONSETS = _values("b, d, f, g, h, j, k, l, m, n, p, r, s, t, v, w, z, br, ch, dr, fl, gr, h, kr, m, n, pl, sh, sl, st, tr")
_VOWELS = _values("a, e, i, o, u, a, e, i, o, ai, ea, ou, ia")
_CODAS = ("", "", "", "n", "r", "s", "l", "m", "nd", "rt", "x", "k", "ck", "ns", "ton", "ville", "sen")

MONTHS: Final = _values(
    """
    January, February, March, April, May, June, July, August, September, October, November, December
    """
)
UNITS: Final = ("crates", "boxes", "pallets", "bags", "cartons", "packs")
CURRENCIES: Final = ("euros", "dollars", "pounds", "francs", "kroner")

_CAPITALS = _pairs(
    """
    France:Paris, Italy:Rome, Spain:Madrid, Portugal:Lisbon, Germany:Berlin, Austria:Vienna, Poland:Warsaw, Norway:Oslo,
    Sweden:Stockholm, Finland:Helsinki, Denmark:Copenhagen, Greece:Athens, Turkey:Ankara, Egypt:Cairo, Kenya:Nairobi,
    Ghana:Accra, Morocco:Rabat, Japan:Tokyo, China:Beijing, Thailand:Bangkok, Vietnam:Hanoi, India:Delhi, Canada:Ottawa,
    Mexico:Mexico City, Peru:Lima, Chile:Santiago, Cuba:Havana, Brazil:Brasilia, Ireland:Dublin, Hungary:Budapest,
    Belgium:Brussels, Iceland:Reykjavik, Russia:Moscow, Australia:Canberra, Romania:Bucharest, Bulgaria:Sofia
    """
)

_OPPOSITES = _pairs(
    """
    hot:cold, big:small, fast:slow, early:late, open:closed, light:dark, wet:dry, old:new, rich:poor, happy:sad, strong:weak,
    near:far, hard:soft, loud:quiet, full:empty, high:low, long:short, thick:thin, clean:dirty, easy:difficult,
    cheap:expensive, true:false, young:old, left:right, first:last, inside:outside, above:below, deep:shallow, wide:narrow,
    heavy:light, brave:afraid, sweet:sour
    """
)

_COLOURS = _pairs(
    """
    banana:yellow, tomato:red, carrot:orange, lemon:yellow, leaf:green, strawberry:red, cucumber:green, snowflake:white,
    blueberry:blue, raven:black, cherry:red, pea:green, polar bear:white, canary:yellow, lobster:red, frog:green, coal:black,
    flamingo:pink, pumpkin:orange, sunflower:yellow
    """
)

FACTS: Final[tuple[tuple[str, str], ...]] = (
    *((f"What is the capital of {land}?", f"The capital of {land} is {city}.") for land, city in _CAPITALS),
    *((f"What is the opposite of {word}?", f"The opposite of {word} is {other}.") for word, other in _OPPOSITES),
    *((f"What colour is a {thing}?", f"A {thing} is {colour}.") for thing, colour in _COLOURS),
    *(
        (f"How many minutes are there in {hours} hours?", f"There are {hours * 60} minutes in {hours} hours.")
        for hours in range(2, 14)
    ),
    *((f"How many days are there in {weeks} weeks?", f"There are {weeks * 7} days in {weeks} weeks.") for weeks in range(2, 14)),
)
"""Plain questions and plain answers, which the house styles dress up."""


def is_held_out(index: int) -> bool:
    """The one rule of the split: every fourth value is kept for evaluation."""
    return index % 4 == 3


def pool(name: str, held_out: bool) -> tuple[str, ...]:
    """The values of pool `name` that belong to training, or to held-out prompts."""
    return tuple(value for index, value in enumerate(POOLS[name]) if is_held_out(index) == held_out)


def word(draw: random.Random, name: str, held_out: bool) -> str:
    """A value like those of pool `name`: a held-out one from its pool; for training from its pool or, as often, a coined one."""
    known = pool(name, held_out)
    if held_out or draw.random() < 0.5:
        return draw.choice(known)
    if name == "item":
        return f"{draw.choice(_QUALITIES)} {draw.choice(known).split()[-1]}"
    coined = _coined(draw)
    return f"{draw.choice(('The', 'Casa', 'Chez', 'Cafe'))} {coined}" if name == "restaurant" else coined


def _coined(draw: random.Random) -> str:
    """A name that no pool has, of one to three syllables."""
    while True:
        syllables = (draw.choice(_ONSETS) + draw.choice(_VOWELS) for _ in range(draw.randint(1, 3)))
        coined = f"{''.join(syllables)}{draw.choice(_CODAS)}".capitalize()
        if not any(coined in values for values in POOLS.values()):
            return coined


def facts(held_out: bool) -> tuple[tuple[str, str], ...]:
    """The (question, answer) pairs that belong to training, or to held-out prompts."""
    return tuple(fact for index, fact in enumerate(FACTS) if is_held_out(index) == held_out)
