"""Words that problems are made of."""

from __future__ import annotations

NAMES = tuple(
    "Ada Ben Clara David Emma Felix Grace Hugo Ida Jonas Kira Leo Mia Noah Olga Paul Rosa Sam Tina "
    "Victor Wanda Yusuf Zoe Amir Bella Carlos Dora Elif Farid Hana Ivan Julia Ken Lena Marco Nora "
    "Omar Petra Quinn Ravi Sofia Tom Uma Vera Will Xenia Yara Zack".split()
)
THINGS = tuple(
    "apple bag ball bell bike book bottle bowl box bread brush bucket cake camera candle carpet "
    "chair clock coat coin comb cup desk dish door drum feather fork glass glove hammer hat jar "
    "kettle key kite knife ladder lamp leaf letter lock map mirror mug nail needle orange pan "
    "paper pear pen pencil piano plate plum pot ring rope rug saw scarf shell shirt shoe sock "
    "spoon stamp stone stool table tent ticket towel toy tray umbrella vase violin wheel whistle "
    "window".split()
)
ANIMALS = tuple(
    "ant bear bee bird camel cat cow crab deer dog donkey duck eagle fish fox frog goat goose hen "
    "horse lion mouse owl parrot pig rabbit sheep snail snake spider swan tiger turtle whale "
    "wolf zebra".split()
)
COLOURS = tuple("red blue green yellow white black brown pink purple orange grey golden".split())
PLACES = tuple(
    "kitchen garden garage attic cellar office hall bedroom library stable bakery school station "
    "harbour market museum park forest village castle".split()
)
FOODS = tuple(
    "soup bread rice noodles cheese salad pancakes pizza fish beans potatoes apples honey "
    "chocolate carrots eggs".split()
)
HOBBIES = tuple(
    "swimming reading painting cooking cycling dancing fishing gardening hiking singing chess "
    "running sewing climbing".split()
)
