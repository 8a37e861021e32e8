"""The PTB tokeniser's grammar: which stretches of text are one token, in the order in which rules win ties.

It describes the language that the lexer of Stanford CoreNLP 3.4.1 accepts with the options that captioning
toolkits give it (line by line, lower-cased). The longest match wins, then the earliest rule. A rule may ask for
something to follow, which is looked at but not consumed. ``tests/parity`` holds it against the jar.
"""

from dataclasses import dataclass

from cliplet.metrics.tokenizer.automaton import (
    Pattern,
    alt,
    literal,
    none_of,
    one_of,
    opt,
    plus,
    seq,
    star,
    times,
    words,
)
from cliplet.metrics.tokenizer.tables import DIGITS, LETTERS, SYMBOLS, WORD_MARKS

# ---- characters ------------------------------------------------------------------------------------------------
ALPHA, ALNUM = one_of("A-Za-z"), one_of("A-Za-z0-9")
ASCII_DIGIT = one_of("0-9")
DIGIT = one_of(DIGITS)
LETTER = one_of(LETTERS)
ANY = none_of()
SOFT_HYPHEN = one_of("\u00ad")
# Roman and circled numerals count as upper-case; Cherokee, which has had cases only since Unicode 8, does not.
_LETTER_OR_DIGIT = alt(LETTER, DIGIT)
UPPER = one_of(
    tuple(
        (c, c)
        for low, high in LETTERS
        if low < 0x13A0 or low > 0x13F4
        for c in range(low, high + 1)
        if chr(c).isupper()
    ),
    ((0x2160, 0x216F), (0x24B6, 0x24CF)),
)
BLANK_CHARS = " \t\u00a0\u2000-\u200a\u3000"
SPACE = one_of(BLANK_CHARS)
NEWLINE = alt(seq(opt(literal("\r")), literal("\n")), one_of("\r\u2028\u2029\u000b\u000c\u0085"))
SPACE_NL = alt(SPACE, NEWLINE)
SPACES_NL = plus(SPACE_NL)
TWO_BLANKS = one_of(" \u00a0")  # the blanks that may stand inside a number or an ellipsis

# ---- entities and quotes ---------------------------------------------------------------------------------------
AMP = literal("&amp;")
APOSTROPHE = alt(one_of("'\u0092\u2019"), literal("&apos;"))
ANY_APOSTROPHE = alt(APOSTROPHE, one_of("`\u0091\u2018\u201b"))
DOUBLE_QUOTE = alt(literal('"'), literal("&quot;"))
ACCENT_ENTITY = seq(literal("&"), one_of("aeiouAEIOU"), words("acute grave uml"), literal(";"))
OLD_PUNCTUATION_ENTITY = seq(
    literal("&"),
    alt(words("HT TL UR LR QC QL QR odq cdq"), seq(literal("#"), plus(ASCII_DIGIT))),
    literal(";"),
)
DASH = alt(seq(literal("&"), words("MD mdash ndash"), literal(";")), one_of("\u0096\u0097\u2013\u2014\u2015"))
QUOTES = alt(
    APOSTROPHE,
    literal("''"),
    times(one_of("`\u2018\u2019\u201a-\u201f\u0091-\u0094\u2039\u203a\u00ab\u00bb"), 1, 2),
)

# ---- markup ----------------------------------------------------------------------------------------------------
TAG_NAME = seq(ALPHA, star(one_of("A-Za-z0-9_:.-")))
_QUOTED = alt(
    seq(literal("'"), star(none_of("'")), literal("'")), seq(literal('"'), star(none_of('"')), literal('"'))
)
_ATTRIBUTE = seq(TAG_NAME, opt(seq(star(literal(" ")), literal("="), star(literal(" ")), _QUOTED)))
TAG = seq(
    literal("<"),
    alt(
        seq(one_of("!?"), one_of("A-Za-z-"), star(none_of(">\r\n"))),
        seq(TAG_NAME, star(seq(plus(literal(" ")), _ATTRIBUTE)), star(literal(" ")), opt(literal("/"))),
        seq(literal("/"), TAG_NAME),
    ),
    star(literal(" ")),
    literal(">"),
)

# ---- words -----------------------------------------------------------------------------------------------------
WORD_LETTER = alt(LETTER, ACCENT_ENTITY, one_of(WORD_MARKS))
WORD = seq(
    WORD_LETTER,
    star(alt(WORD_LETTER, DIGIT)),
    star(seq(one_of(".!?"), WORD_LETTER, star(alt(WORD_LETTER, DIGIT)))),
)
CLITIC = seq(APOSTROPHE, alt(one_of("msdMSD"), words("re ve ll")))
WORD_BEFORE_NOT = seq(star(one_of("A-Za-z\u00ad")), one_of("A-MO-Za-mo-z"), star(SOFT_HYPHEN))
CONTRACTED_NOT = seq(literal("n"), ANY_APOSTROPHE, literal("t"))
_LETTERS = star(LETTER)
APOSTROPHE_WORD = alt(
    seq(APOSTROPHE, literal("n"), opt(APOSTROPHE)),
    seq(one_of("lLdDjJ"), APOSTROPHE),
    seq(words("dunkin somethin ol"), APOSTROPHE),
    seq(APOSTROPHE, words("em til till cause")),
    seq(one_of("A-HJ-XZn"), ANY_APOSTROPHE, LETTER, LETTER, _LETTERS),
    seq(APOSTROPHE, one_of("2-9"), literal("0s")),
    seq(LETTER, _LETTERS, one_of("aeiouyAEIOUY"), ANY_APOSTROPHE, one_of("aeiouA-Z"), _LETTERS),
    seq(literal("o"), ANY_APOSTROPHE, literal("o")),
    seq(literal("cont'd"), opt(literal("."))),
    words("nor'easter c'mon e'er s'mores ev'ry li'l nat'l"),
)
Y_APOSTROPHE = seq(literal("y"), APOSTROPHE)
SPLIT_BEFORE_LAST_3 = words("cannot 'twas")
SPLIT_BEFORE_LAST_2 = words("'tis gonna gotta lemme gimme wanna")
SPECIAL_WORD = alt(
    seq(literal("-"), words("RRB LRB RCB LCB RSB LSB"), literal("-")),
    literal("C.D.s"),
    literal("pro-"),
    literal("anti-"),
    seq(literal("S"), alt(literal("&"), AMP), alt(literal("P-500"), literal("Ls"))),
    seq(literal("cap"), APOSTROPHE, literal("n")),
    seq(literal("c"), APOSTROPHE, literal("est")),
)
TWO_DIGIT_YEAR = seq(APOSTROPHE, ASCII_DIGIT, ASCII_DIGIT)
PROGRAMMING_LANGUAGE = words("c++ c# f#")

# ---- addresses -------------------------------------------------------------------------------------------------
_NOT_IN_URL = ' \t\n\u000c\r"<>|'
FULL_URL = seq(
    words("http https"),
    literal("://"),
    plus(none_of(_NOT_IN_URL + "(){}")),
    none_of(_NOT_IN_URL + ".!?(){},-"),
)
_HOST = none_of(_NOT_IN_URL + ".!?(){},")
_HOST_STRICT = none_of(_NOT_IN_URL + "`'.!?(){},-_$")
LIKELY_URL = seq(
    alt(
        seq(literal("www."), plus(seq(plus(_HOST), literal("."))), times(ALPHA, 2, 4)),
        seq(plus(seq(plus(_HOST_STRICT), literal("."))), words("com net org edu")),
    ),
    opt(seq(literal("/"), plus(none_of(_NOT_IN_URL + "()")), none_of(_NOT_IN_URL + ".!?(){},-"))),
)
_MAIL = ' \t\n\u000c\r"<>|(){}\u00a0'
EMAIL = seq(
    opt(alt(literal("<"), literal("&lt;"))),
    ALNUM,
    star(none_of(_MAIL)),
    literal("@"),
    star(seq(plus(none_of(_MAIL + ".")), literal("."))),
    plus(none_of(_MAIL + ".")),
    opt(alt(literal(">"), literal("&gt;"))),
)
FILE_NAME = seq(
    plus(alt(WORD_LETTER, DIGIT)),
    star(seq(literal("."), plus(alt(WORD_LETTER, DIGIT)))),
    literal("."),
    words(
        "bat bmp c class cgi cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php pl png ppt ps"
        " py sql tar txt wav x xml zip"
    ),
)
AT_NAME = seq(literal("@"), one_of("A-Za-z_"), star(one_of("a-zA-Z_0-9")))
HASHTAG = seq(literal("#"), plus(WORD_LETTER))

# ---- numbers ---------------------------------------------------------------------------------------------------
_DIGITS = plus(DIGIT)
DATE = seq(times(DIGIT, 1, 2), one_of("/-"), times(DIGIT, 1, 2), one_of("/-"), times(DIGIT, 2, 4))
NUM = alt(_DIGITS, seq(star(DIGIT), plus(seq(one_of(".:,\u00ad\u066b\u066c"), _DIGITS))))
NUMBER = seq(opt(one_of("+-")), NUM)
RAISED_NUMBER = seq(
    opt(one_of("\u207a\u207b\u208a\u208b")),
    alt(plus(one_of("\u2070\u00b9\u00b2\u00b3\u2074-\u2079")), plus(one_of("\u2080-\u2089"))),
)
_FRACTION_TAIL = seq(
    times(DIGIT, 1, 4), alt(seq(opt(literal("\\")), literal("/")), literal("\u2044")), times(DIGIT, 1, 4)
)
FRACTION = seq(opt(seq(times(DIGIT, 1, 4), one_of("- \u00a0"))), _FRACTION_TAIL)
FRACTION_SIGN = one_of("\u00bc\u00bd\u00be\u2153-\u215e")
DOLLAR = alt(seq(star(one_of("A-Z")), literal("$")), literal("#"))
CURRENCY_SIGN = one_of("\u00a2-\u00a5\u0080\u20a0\u20a4\u20ac\u060b\u0e3f\uffe0\uffe1\uffe5\uffe6")
_D = ASCII_DIGIT
_PHONE_GAP = one_of(" \u00a0-")
_COUNTRY = seq(literal("+"), opt(literal("+")))
PHONE = alt(
    seq(
        alt(
            seq(literal("("), times(_D, 2, 3), literal(")"), opt(TWO_BLANKS)),
            seq(opt(_COUNTRY), opt(seq(times(_D, 2, 4), _PHONE_GAP)), times(_D, 2, 4), _PHONE_GAP),
        ),
        times(_D, 3, 4),
        opt(_PHONE_GAP),
        times(_D, 3, 5),
    ),
    seq(
        opt(seq(opt(_COUNTRY), times(_D, 2, 4), literal("."))),
        times(_D, 2, 4),
        literal("."),
        times(_D, 3, 4),
        literal("."),
        times(_D, 3, 5),
    ),
)

# ---- abbreviations; a capital in brackets counts only as a capital -----------------------------------------------


def _capital_words(text: str) -> Pattern:
    """Words whose first letter must be written as given."""
    return alt(*(seq(one_of(word[0]), literal(word[1:])) for word in text.split()))


ACRONYM2 = alt(
    seq(ALPHA, plus(seq(literal("."), ALPHA))),
    seq(words("Canada Sino Korean EU Japan non"), literal("-U.S")),
    seq(literal("U.S.-"), words("U.K U.S.S.R")),
)
ACRONYM = alt(ALPHA, ACRONYM2)
# Usually followed by a lower-case word; before an upper-case one a sentence ends too.
_LOW_WORDS = (
    "Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec Mon Tue Tues Wed Thu Thurs Fri"
    " Ala Ariz Calif Colo Conn Ct Dak Fla Ga Ind Kan Kans Ky Md Mich Minn Mo Mont Neb Nev Okla Penn Tenn Va Vt Wis"
    " Wisc Wyo Inc Co Cos Corp Ltd Plc Rt Bancorp Bhd Assn Univ Intl Sys tel est ext sq Jr Sr Bros Ed.D Ph.D Blvd Rd"
    " Esq etc al seq Bldg"
)
_LOW_CAPITAL_WORDS = "Az Ark Del Ill La Mass Miss Ore Pa Tex Wash"
ABBREVIATION_LOW = seq(
    alt(
        words(_LOW_WORDS),
        _capital_words(_LOW_CAPITAL_WORDS),
        seq(literal("p"), opt(literal("p")), literal("t"), one_of("ey"), opt(literal("s"))),
    ),
    literal("."),
)
# Usually followed by an upper-case word; never taken for a sentence's end.
_HIGH_WORDS = (
    "Mr Mrs Ms Dr Drs Prof Profs Sen Sens Rep Reps Atty Attys Lt Col Gen Messrs Gov Govs Adm Rev Maj Sgt Cpl Pvt Capt"
    " St Ste Ave Pres Lieut Hon Brig Cmdr Comdr Pfc Spc Supt Supts Det Mt Ft Adj Adv Asst Assoc Ens Insp Mlle Mme Msgr"
    " Sfc vs Alex Wm Jos Cie a.k.a cf TREAS Ph Invt Elec Natl Dept"
)
ABBREVIATION_HIGH = alt(
    words(_HIGH_WORDS), _capital_words("Miss"), seq(literal("m"), one_of("ft"), literal("g")), ACRONYM
)
# Only before a number.
_NUMBER_WORDS = "ca fig figs prop no nos art bldg pp op"
ABBREVIATION_NUMBER = seq(words(_NUMBER_WORDS), literal("."))
_ABBREVIATIONS = f"{_LOW_WORDS} {_LOW_CAPITAL_WORDS} {_HIGH_WORDS} {_NUMBER_WORDS} mfg mtg"
ABBREVIATED = frozenset(f"{_ABBREVIATIONS} pte ptes pty ptys ppte pptes ppty pptys".lower().split(" "))
"""Words, in lower case, that may keep a period behind them."""
_SENTENCE_STARTERS = (
    "About According Additionally After An A As At But Earlier He Her Here However If In It Last Many More Mr."
    " Ms. Now Once One Other Our She Since So Some Such That The Their Then There These They This We When While What"
    " Yet You"
)
SENTENCE_START = alt(_capital_words(_SENTENCE_STARTERS), TAG)

# ---- hyphenated and slashed things -----------------------------------------------------------------------------
_ELIDED = opt(seq(one_of("dDoOlL"), ANY_APOSTROPHE, _LETTER_OR_DIGIT))
HYPHEN = one_of("_\u058a\u2010\u2011-")
THING = seq(
    _ELIDED,
    plus(_LETTER_OR_DIGIT),
    star(seq(HYPHEN, _ELIDED, plus(_LETTER_OR_DIGIT))),
)
_CAPITALS = plus(one_of("A-Z"))
AMPERSAND_THING = seq(_CAPITALS, plus(seq(alt(one_of("+&"), AMP), _CAPITALS)))
_SLASH_PART = seq(plus(ALNUM), times(seq(literal("-"), plus(ALPHA)), 0, 2))
SLASH_THING = seq(_SLASH_PART, times(seq(opt(literal("\\")), literal("/"), _SLASH_PART), 1, 2))
HYPHEN_THING = seq(
    ALNUM,
    star(one_of("A-Za-z0-9.,\u00ad")),
    plus(seq(literal("-"), alt(plus(one_of("A-Za-z0-9\u00ad")), seq(ACRONYM2, literal("."))))),
)

# ---- marks -----------------------------------------------------------------------------------------------------
ELLIPSIS = alt(
    times(literal("."), 3, 5),
    seq(times(seq(literal("."), TWO_BLANKS), 2, 4), literal(".")),
    one_of("\u0085\u2026"),
)
IN_SENTENCE = one_of(",;:\u3001")
SMILEY = seq(opt(one_of("<>")), one_of(":;="), opt(one_of("o*'-")), one_of("()DPdpO\\{@|[]"))
ASIAN_SMILEY = alt(
    # Meant as (^.^) and the like, but the jar's pattern has a slip and asks for this.
    seq(one_of("^x=~<>"), literal(".[^x="), star(none_of("<")), literal("<>]")),
    seq(one_of("^x=~<>'-"), literal("_"), one_of("^x=~<>'-")),
    seq(literal("("), one_of("^x=~<>'-"), opt(one_of("_.")), one_of("^x=~<>'-"), literal(")")),
    seq(literal("("), one_of("^x=~<>'"), literal("-"), one_of("^x=~<>'`"), literal(")")),
)
MARKS = alt(plus(literal("@")), plus(literal("#")), plus(literal("_")))
ASTERISKS = alt(plus(literal("*")), times(literal("\\*"), 1, 3))
SENTENCE_MARK = one_of(".\u00a1\u00bf\u037e\u0589\u061f\u06d4\u0700-\u0702\u07fa\u3002")
SYMBOL = one_of("+%&~^|\\\u2044\u207a\u207b\u208a\u208b\u24b6-\u24cf", SYMBOLS)
IGNORED = alt(one_of("\u0000\u200b\u200e\u200f\ufeff"), plus(SPACE))


@dataclass(frozen=True)
class Rule:
    """What is one token, what must follow it, and what becomes of it (see `ptb_tokenizer`)."""

    action: str
    pattern: Pattern
    then: Pattern | None = None

    @property
    def whole(self) -> Pattern:
        """The token and what must follow it."""
        return seq(self.pattern, self.then) if self.then else self.pattern


def rules() -> list[Rule]:
    """All rules, the earlier ones first."""
    return [
        Rule("keep", PROGRAMMING_LANGUAGE),
        Rule("split3", SPLIT_BEFORE_LAST_3),
        Rule("split2", SPLIT_BEFORE_LAST_2),
        Rule("spaces", TAG),
        Rule("dash", DASH),
        Rule("ampersand", AMP),
        Rule("keep", OLD_PUNCTUATION_ENTITY),
        Rule("word", WORD, CLITIC),
        Rule("word", WORD_BEFORE_NOT, CONTRACTED_NOT),
        Rule("word", WORD),
        Rule("keep", APOSTROPHE_WORD),
        Rule("keep", Y_APOSTROPHE, LETTER),
        Rule("keep", FULL_URL),
        Rule("keep", LIKELY_URL),
        Rule("keep", EMAIL),
        Rule("keep", alt(AT_NAME, HASHTAG)),
        Rule("quote", CLITIC, none_of("A-Za-z")),
        Rule("quote", CONTRACTED_NOT, none_of("A-Za-z")),
        Rule("keep", DATE),
        Rule("word", NUMBER),
        Rule("keep", RAISED_NUMBER),
        Rule("spaces", FRACTION),
        Rule("fraction", FRACTION_SIGN),
        Rule("ampersand", SPECIAL_WORD),
        Rule("keep", SLASH_THING),
        Rule("keep", DOLLAR),
        Rule("currency", CURRENCY_SIGN),
        Rule("acronym", seq(ACRONYM, literal(".")), seq(SPACES_NL, SENTENCE_START, SPACE_NL)),
        Rule("keep", ABBREVIATION_NUMBER, seq(opt(SPACE_NL), DIGIT)),
        Rule(
            "keep",
            seq(alt(seq(literal("pt"), one_of("eyEY")), literal("co")), literal(".")),
            seq(SPACE, words("ltd lim")),
        ),
        Rule("sentence_end", ABBREVIATION_LOW, seq(SPACE_NL, alt(SPACE_NL, UPPER, TAG))),
        Rule("keep", ABBREVIATION_LOW, seq(ANY, ANY)),
        Rule("sentence_end", ABBREVIATION_LOW),
        Rule("keep", seq(ABBREVIATION_HIGH, literal("."))),
        Rule("keep", ABBREVIATION_HIGH, SPACE),
        Rule("keep", ACRONYM, SPACE_NL),
        Rule("keep", TWO_DIGIT_YEAR, SPACE_NL),
        Rule("keep", FILE_NAME, alt(SPACE_NL, one_of(".?!,"))),
        Rule("word", seq(WORD, literal(".")), IN_SENTENCE),
        Rule("phone", PHONE),
        Rule("open_quote", DOUBLE_QUOTE, one_of("A-Za-z0-9$")),
        Rule("quote", DOUBLE_QUOTE),
        Rule("skip", one_of("\u007f")),
        Rule("less", alt(literal("<"), literal("&lt;"))),
        Rule("greater", alt(literal(">"), literal("&gt;"))),
        Rule("parentheses", SMILEY, none_of("A-Za-z0-9")),
        Rule("parentheses", ASIAN_SMILEY),
        Rule("{", literal("{")),
        Rule("}", literal("}")),
        Rule("[", literal("[")),
        Rule("]", literal("]")),
        Rule("(", literal("(")),
        Rule(")", literal(")")),
        Rule("hyphens", plus(literal("-"))),
        Rule("ellipsis", ELLIPSIS),
        Rule("keep", MARKS),
        Rule("keep", ASTERISKS),
        Rule("keep", IN_SENTENCE),
        Rule("keep", plus(one_of("?!"))),
        Rule("keep", SENTENCE_MARK),
        Rule("keep", literal("=")),
        Rule("keep", literal("/")),
        Rule("word", seq(HYPHEN_THING, literal(".")), IN_SENTENCE),
        Rule("word", HYPHEN_THING),
        Rule("keep", seq(THING, literal(".")), IN_SENTENCE),
        Rule("keep", THING),
        Rule("ampersand", seq(AMPERSAND_THING, literal(".")), IN_SENTENCE),
        Rule("ampersand", AMPERSAND_THING),
        Rule("open_quote", literal("'"), seq(ALPHA, none_of(" \t\n\r\u00a0"))),
        Rule("quote", CLITIC),
        Rule("quote", CONTRACTED_NOT),
        Rule("quote", QUOTES),
        Rule("keep", words("<< >>")),
        Rule("keep", SYMBOL),
        Rule("skip", IGNORED),
        Rule("newline", NEWLINE),
        Rule("skip", literal("&nbsp;")),
        Rule("skip", none_of("\n")),
    ]
