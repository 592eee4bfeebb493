"""What English has beside its stems: words that say nothing, and forms that no suffix rule reaches.

A change here changes what terms a text has: `terms.TERMS` then gets another name.
"""

from __future__ import annotations

_STOP = """
    i me my myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers herself
    it its itself they them their theirs themselves what which who whom whose this that these those am is are was were
    be been being have has had having do does did doing will would shall should can could may might must ought a an
    the and but if or because as until while of at by for with about against between into through during before after
    above below to from up down in out on off over under again further then once here there when where why how all any
    both each few more most other some such no nor not only own same so than too very just also much many

    won't can't shan't ain't dont doesnt didnt isnt arent wasnt werent cant couldnt wont wouldnt shouldnt havent hasnt
    hadnt im ive youre youve theyre theyve weve thats whats theres heres hes shes lets let's
"""
STOP = frozenset(_STOP.split())
"""Most of these are the Snowball project's list of English stop words."""

ENDINGS = ("n't", "'s", "'ll", "'re", "'ve", "'d", "'m", "'")
"""What is written together with a word by an apostrophe and says nothing."""

_FORMS = """
    arise arose arisen | awake awoke awoken | bear bore borne | beat beaten | become became | begin began begun
    bend bent | bind bound | bite bit bitten | bleed bled | blow blew blown | break broke broken | breed bred
    bring brought | build built | burn burnt | buy bought | catch caught | choose chose chosen | cling clung
    come came | creep crept | deal dealt | dig dug | draw drew drawn | dream dreamt | drink drank drunk
    drive drove driven | eat ate eaten | fall fell fallen | feed fed | feel felt | fight fought | flee fled
    fly flew flown flies flying | forbid forbade forbidden | forget forgot forgotten | forgive forgave forgiven
    freeze froze frozen | get got gotten | give gave given | go went gone goes | grow grew grown | hang hung
    hear heard | hide hid hidden | hold held | keep kept | kneel knelt | know knew known | lay laid | lead led
    lean leant | leap leapt | learn learnt | lend lent | lose lost | make made | mean meant | meet met
    mistake mistook mistaken | overcome overcame | pay paid | prove proven | ride rode ridden | ring rang rung
    rise rose risen | run ran | say said | see saw seen | seek sought | sell sold | send sent | sew sewn
    shake shook shaken | shine shone | shoot shot | show shown | shrink shrank shrunk | sing sang sung
    sink sank sunk | sit sat | sleep slept | slide slid | speak spoke spoken | speed sped | spell spelt
    spend spent | spill spilt | spin spun | spoil spoilt | spring sprang sprung | stand stood | steal stole stolen
    stick stuck | sting stung | strike struck | strive strove | swear swore sworn | sweep swept
    swell swollen | swim swam swum | swing swung | take took taken | teach taught | tear tore torn | tell told
    think thought | throw threw thrown | undergo underwent | understand understood | wake woke woken
    wear wore worn | weep wept | win won | withdraw withdrew withdrawn | wind wound | write wrote written
    child children | foot feet | goose geese | half halves | knife knives | leaf leaves | loaf loaves
    man men | mouse mice | person people | shelf shelves | thief thieves | tooth teeth | wife wives | wolf wolves
    woman women | good better best | bad worse worst
"""


def _irregular() -> dict[str, str]:
    """Each form with the word that it is a form of."""
    groups = [group.split() for line in _FORMS.splitlines() for group in line.split("|")]
    return {form: group[0] for group in groups if group for form in group[1:]}


IRREGULAR = _irregular()
