"""Words by which toxic and discriminating text is recognised, and groups of people counted. English and Chinese.

Regular expressions of lower-case text; English ones stand between word boundaries. The lists name abuse in order to
find it. They are short on purpose: a long list of words with a harmless sense, too, drops what is written about the
people that it names more often than what is written against them (Dodge et al. 2021).
"""

from __future__ import annotations

# Groups of people; a group that is missing here is not counted, and not protected.
GROUPS: dict[str, dict[str, str]] = {
    "women": {"en": "wom[ae]n|girls?|females?|ladies|mothers|wives", "zh": "女人|女性|女生|女孩|妇女|女士|姑娘"},
    "men": {"en": "m[ae]n|boys?|males?|fathers|husbands", "zh": "男人|男性|男生|男孩|男士"},
    "lgbt": {
        "en": "gays?|lesbians?|bisexuals?|trans(?:gender)? people|transgender|homosexuals?|lgbtq?",
        "zh": "同性恋者?|双性恋者?|跨性别者?|变性人",
    },
    "christians": {"en": "christians?|catholics?|protestants?", "zh": "基督徒|基督教徒|天主教徒"},
    "muslims": {"en": "muslims?|moslems?", "zh": "穆斯林|回教徒"},
    "jews": {"en": "jews?|jewish", "zh": "犹太人"},
    "buddhists": {"en": "buddhists?", "zh": "佛教徒|和尚|尼姑"},
    "black_people": {
        "en": "blacks|black (?:people|persons?|m[ae]n|wom[ae]n|folks|guys?)|african[- ]americans?|africans?",
        "zh": "黑人|非洲人",
    },
    "white_people": {"en": "whites|white (?:people|persons?|m[ae]n|wom[ae]n|folks|guys?)", "zh": "白人"},
    "asians": {
        "en": "asians?|chinese (?:people|persons?|m[ae]n|wom[ae]n)|the chinese|japanese people|indians?",
        "zh": "亚洲人|亚裔|华人|中国人|日本人|印度人",
    },
    "immigrants": {"en": "immigrants?|refugees?|migrants?|foreigners?", "zh": "移民|难民|外国人|老外|外地人|农民工"},
    "disabled_people": {
        "en": "disabled people|people with disabilities|the disabled|handicapped people|blind people|deaf people|"
        "autistic people|wheelchair users?",
        "zh": "残疾人|残障人士|盲人|聋人|聋哑人|自闭症患者",
    },
    "old_people": {"en": "old (?:people|m[ae]n|wom[ae]n)|elderly people|the elderly|seniors", "zh": "老人|老年人"},
    "poor_people": {"en": "poor people|the poor|homeless people|the homeless", "zh": "穷人|流浪汉|乡下人"},
}

# Toxicity: swear words, and what insults or threatens the reader, or is a slur whatever the context.
SWEAR = {
    "en": r"fuck\w*|motherfuck\w*|shit\w*|bullshit|ass ?holes?|bitch\w*|bastards?|dickheads?|cunts?|whores?|sluts?|"
    r"dumbass\w*|retards?|retarded|scumbags?",
    "zh": "傻逼|傻屄|煞笔|脑残|智障|蠢货|贱人|贱货|婊子|荡妇|狗娘养的|王八蛋|混蛋|他妈的|你妈的|狗东西|杂种|畜生|人渣|"
    "废物|操你|草泥马|去你妈",
}
ABUSE = {
    "en": r"niggers?|faggots?|kikes?|ragheads?|kill yourself|go kill yourselves|fuck (?:you|off)|go to hell|"
    r"i(?:'ll| will) (?:kill|hurt|rape) you|"
    r"(?:you(?:'re| are)?|u r)(?: \w+){0,3} (?:idiots?|morons?|imbeciles?|bitch|bastards?|retards?|scum|trash|"
    r"whore|slut|loser|piece of shit)",
    "zh": "(?:你|你们|妳)(?:这个?|那个?|就是|真是|是|真|个|他妈)*(?:傻逼|白痴|脑残|智障|蠢货|贱人|贱货|婊子|混蛋|"
    "王八蛋|狗东西|杂种|畜生|废物|垃圾|人渣)|去死吧|死全家|我要?杀了你|操你妈|滚蛋吧?你",
}

# Discrimination: what is said of a group as a whole.
VERB = {
    "en": r"are|is|should|must|deserve to|do(?: not|n't) deserve|can ?not|can't|belong|only want to",
    "zh": "",
}
DEROGATORY = {
    "en": r"stupid|dumb|inferior|sub-?human|animals|vermin|parasites|filth|filthy|dirty|lazy|criminals|terrorists|"
    r"thieves|rapists|savages|disgusting|worthless|useless|scum|a plague|a disease|perverts|deported|exterminated|"
    r"eliminated|wiped out|sterili[sz]ed|not be allowed|to (?:live|vote|exist)|in the kitchen|not human|"
    r"less intelligent",
    "zh": "蠢|愚蠢|笨|低等|劣等|下贱|肮脏|懒|懒惰|骗子|小偷|罪犯|强盗|恐怖分子|垃圾|人渣|畜生|废物|寄生虫|祸害|恶心|"
    "素质低|没素质|滚出去|滚回去|被?赶出去|被?消灭|被?灭绝|杀光|不配|没用|没有用|低人一等",
}
# Words between a group and what is said of it; a negation is none of them.
BETWEEN = {
    "en": r"(?: (?!not\b|never\b|no\b|n't\b)[\w']+){0,3}?",
    "zh": "们?(?:都|全|就|真|太|很|只|天生|根本|普遍|本来|这些|那么|又|是|应该|应当|必须|该|会|要|一群|一帮|的|最)*",
}
# Words of a sentence that rejects, reports or discusses such a statement.
REPORTED = {
    "en": r"not|never|stereotyp\w*|myths?|prejudic\w*|racis\w*|sexis\w*|discriminat\w*|bigot\w*|wrong|false|falsely|"
    r"claim\w*|believ\w*|sa(?:id|ys?|ying)|accus\w*|call(?:ed|s|ing)?|argu\w*|slurs?|insult\w*|offensive",
    "zh": "不是|并非|并不|不应|不该|不能说|偏见|歧视|刻板印象|错误|谣言|所谓|认为|说法|反对|批评|辱骂|骂|侮辱|脏话",
}
