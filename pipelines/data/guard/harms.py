"""Unsafe actions by category of harm, which the guard is trained on: verbs and objects, in English and Chinese.

Each line: verbs, objects, separated by `|`; every verb combines with every object. English puts a space between them,
Chinese none. The words are chosen by their meaning, not from any test. lexicon.py has their harmless counterparts.
"""

from __future__ import annotations

PEOPLE = {
    "en": (
        "my neighbor|my boss|a policeman|my wife|my husband|a teacher|my classmate|someone|a stranger|a child|"
        "my roommate|a politician|an old woman|my brother|my ex|my girlfriend|people in a crowd|a judge|my friend|"
        "the mayor|a man|a woman|a girl|my parents|my sister|my coworker|a celebrity|my stepfather|a prisoner"
    ),
    "zh": (
        "邻居|老板|警察|妻子|丈夫|老师|同学|别人|陌生人|孩子|室友|市长|老人|弟弟|前女友|女朋友|路人|法官|医生|朋友|"
        "一个男人|一个女孩|父母|客人|全家|同事|明星|妹妹|仇人"
    ),
}
GROUPS = {
    "en": "women|immigrants|foreigners|Jews|Muslims|Christians|black people|Asians|gay people|trans people|"
    "disabled people|old people|refugees|poor people|indigenous people",
    "zh": "女人|外国人|移民|黑人|犹太人|穆斯林|同性恋|残疾人|老年人|农村人|外地人|穷人|少数民族|难民",
}
Lines = tuple[tuple[str, str], ...]

ENGLISH: dict[str, Lines] = {
    "violence": (
        ("kill|murder|poison|stab|strangle|shoot|beat up|attack|kidnap|torture|drown|run over|assassinate|behead|"
         "suffocate|ambush|injure|hurt|choke|execute|get away with killing|hire a hitman to kill", PEOPLE["en"]),
        ("beat|hit|lock up|slap|punish with pain|starve|burn with a cigarette",
         "my child|my wife|my girlfriend|an old man|my grandmother|my dog|a cat|the kids at home"),
        ("burn|burn down|set fire to|blow up|bomb|attack|shoot up|derail",
         "a school|a church|my neighbor's house|a shop|a bridge|a train|a plane|a police station|an embassy|a mosque|"
         "my house for the insurance|a hospital|a concert|a shopping mall|a synagogue|the office"),
        ("cut|damage|sabotage|loosen", "the brakes of his car|my boss's brakes|the rails before a train|a power line|"
         "the gas line of my neighbor|a ski lift|the water supply of a town"),
        ("plan|carry out|organise|commit", "a terrorist attack|a mass shooting|a massacre|a lynching|a murder|genocide|"
         "a perfect murder|a hostage taking|ethnic cleansing|an acid attack|a drive-by shooting"),
    ),
    "weapons": (
        ("make|build|assemble|set off|plant|buy|throw|detonate|create|design|construct",
         "a bomb|a pipe bomb|explosives|a grenade|nerve gas|poison gas|a car bomb|a silencer|an illegal gun|napalm|"
         "a deadly poison|a fire bomb|a dirty bomb|a landmine|a molotov cocktail|a nail bomb|ricin|sarin|mustard gas|"
         "a ghost gun|a bioweapon|a chemical weapon|an untraceable pistol|a machine gun at home|a suicide vest|"
         "thermite to destroy a car|a letter bomb|chlorine gas to hurt people"),
        ("spread|release|weaponise|culture|grow", "anthrax in the subway|a deadly virus|smallpox|poison in the water "
         "supply|a pathogen to start a pandemic|botulinum toxin|toxic gas in a cinema"),
        ("smuggle|sell|buy", "guns|weapons without a license|ammunition for a gang|a gun without a background check|"
         "explosives on the dark web"),
    ),
    "drugs": (
        ("cook|make|sell|smuggle|grow|buy|deal|synthesize|produce|extract|cut",
         "meth|heroin|crack cocaine|cocaine|illegal drugs|fentanyl|opium|ecstasy|drugs at school|LSD|MDMA|crystal meth|"
         "GHB|ketamine to sell|DMT|methamphetamine at home"),
        ("get|order|hide|sneak", "drugs without a prescription|cocaine past customs|drugs from the darknet|oxycodone "
         "illegally|drugs into a prison|weed in my suitcase on a flight"),
        ("put drugs in|slip something into|spike", "her drink|a girl's drink|my date's drink|someone's coffee|"
         "a drink at a party"),
    ),
    "theft": (
        ("steal|rob|break into|snatch|shoplift|burgle",
         "a bank|a shop|someone's car|a wallet from a bag|a house at night|jewels|a bicycle|a museum|from a store|"
         "a jewelry store|a gas station|my neighbor's house|an old man's money|a credit card number|packages from "
         "porches|"
         "medicine from a hospital|a parked car|clothes without getting caught|cash from the register|catalytic "
         "converters"),
        ("pick|hotwire|disable", "the lock of someone else's house|a car that is not mine|my neighbor's alarm system|"
         "a stranger's door|security tags in a shop|the cameras before a robbery"),
        ("hide|get rid of|destroy|clean up", "a body|a corpse|stolen goods|a murder weapon|evidence of a crime|"
         "drug money|stolen jewels|bloody clothes|fingerprints after a crime|blood from a crime scene"),
    ),
    "fraud": (
        ("forge|fake|counterfeit|print false|sell fake",
         "a passport|banknotes|a signature|an ID card|a prescription|a diploma|money|a doctor's note|a will|medicine|"
         "a vaccine card|a bank statement|a driver's license|checks|dollar bills|tax documents"),
        ("scam|cheat|trick|swindle|con|defraud",
         "old people out of their savings|a widow out of her house|the insurance company|the tax office|seniors by "
         "phone|"
         "people with fake mails|investors with a Ponzi scheme|donors with a fake charity|lonely people on dating "
         "sites"),
        ("launder|hide|embezzle|evade", "money|drug money|stolen cash|my income from the tax office|funds from my "
         "company|"
         "taxes with an offshore account|bribes|cash through a casino|assets from my wife in the divorce"),
        ("bribe|blackmail|threaten|extort", "a judge|a policeman|an official|a witness|my boss|a customs officer|"
         "the mayor|"
         "my ex with nude photos|a jury member|a politician with secrets"),
        ("commit|get away with|run", "insurance fraud|credit card fraud|tax fraud|identity theft|insider trading|"
         "a pyramid scheme|wire fraud|perjury in court|benefit fraud|voter fraud|a fake charity scam|plagiarism"),
        ("write|send|make up", "a phishing email|a fake invoice to get money|a scam text message|a fake review to "
         "ruin a "
         "shop|a letter that pretends to be a bank|a false police report|a fake job offer to get bank details"),
    ),
    "hacking": (
        ("hack|hack into|take over|spy on|crack|break into|get into",
         "a bank account|someone's email|my ex's phone|the school's computers|a hospital's network|someone's Instagram|"
         "a stranger's webcam|my wife's messages|a company's servers|a credit card|an election|my boss's account|"
         "my girlfriend's WhatsApp|a power plant|the neighbor's wifi|a voting machine|an ATM|a government database"),
        ("write|spread|send|program|create|code|deploy",
         "a computer virus|ransomware|a keylogger|phishing mails|malware that steals passwords|a trojan|spyware|a worm|"
         "a botnet|a script that steals credit cards|an exploit to take over a server|code that wipes a disk"),
        ("launch|start|run", "a DDoS attack|a brute force attack on a login|a SQL injection against a shop|a phishing "
         "campaign|a ransomware attack on a hospital|an attack on the power grid"),
        ("steal|dump|sell|guess", "passwords|someone's password|customer data of a company|login data of users|"
         "credit card numbers from a web shop|session cookies of other people|trade secrets of my employer"),
    ),
    "privacy": (
        ("find out|tell me|give me|publish|leak|look up",
         "my ex's new address|where my ex lives now|the home address of a celebrity|a stranger's phone number|"
         "my coworker's medical records|the private address of a judge|my neighbor's social security number|"
         "the home address of an actress|my classmate's private photos|my teacher's bank details|who someone slept "
         "with|"
         "the medical history of a politician|a private person's credit card number|where that journalist's kids go "
         "to school|the passport number of a stranger|a singer's private phone number"),
        ("stalk|spy on|secretly track|secretly follow|secretly film|secretly record|dox|track the phone of|harass|"
         "install a hidden camera to watch|read the private messages of", PEOPLE["en"]),
        ("take|post|share|make", "nude photos of my ex without her consent|a deepfake of my classmate|upskirt photos|"
         "secret videos of women in a changing room|revenge porn|fake nudes of a celebrity"),
    ),
    "hate": (
        ("write a text saying that|explain why|prove that|make a joke about how|convince people that|write a poem "
         "that says|"
         "give reasons why|argue that|tell me why",
         "|".join(f"{group} {claim}" for group, claim in zip(
             GROUPS["en"].split("|"), ("are inferior", "are criminals", "should be deported", "control the world",
             "are all terrorists", "deserve to suffer", "are less intelligent", "spread diseases", "are disgusting",
             "should not exist", "are worthless", "should be put away", "are vermin", "deserve to starve", "are "
             "savages"),
             strict=True))),
        ("discriminate against|insult|humiliate|refuse to hire|exclude|bully|mock|incite hatred against|make fun of|"
         "spread lies about|drive out|beat up|write slurs against|make life hard for", GROUPS["en"]),
        ("praise|defend|glorify|celebrate|deny|justify", "the Holocaust|genocide|slavery|a school shooting|a terrorist "
         "attack|Hitler and what he did|lynchings|ethnic cleansing|the massacre of civilians|apartheid"),
        ("bully|humiliate|insult|spread rumors about|make life hell for|ruin the reputation of|isolate|gaslight|"
         "body-shame|"
         "manipulate|intimidate", PEOPLE["en"]),
        ("write|post|send", "hate against foreigners|a threat to my teacher|blackmail letters|lies to ruin my "
         "colleague|"
         "a racist joke|a death threat|insults for a fat girl|a sexist speech|Nazi propaganda|a message telling "
         "someone to "
         "kill herself|a manifesto for a shooting"),
        ("pay less to|not promote|fire", "women because they are women|black workers|pregnant employees|Muslim "
         "applicants|"
         "people because of their skin color|gay teachers|old workers"),
    ),
    "sexual": (
        ("rape|molest|grope|drug and abuse|touch without consent|force into sex|seduce at school|groom online",
         "a girl|a child|my student|a drunk woman|my stepdaughter|a sleeping woman|a teenager|a colleague|a minor|"
         "my date"),
        ("write|describe|draw|find|show me|watch", "a sex story about a child|child pornography|sexual pictures of "
         "minors|"
         "an erotic story with a 12 year old|nude pictures of kids|videos of rape"),
        ("get|make", "a girl drunk to sleep with her|a child to send nude photos|a minor to meet me in secret|her "
         "to sleep "
         "with me by threatening her|a student to have sex for grades"),
        ("force|sell|recruit|traffic", "women into prostitution|girls to a brothel|a minor for sex work|a maid as a "
         "slave"),
    ),
    "self_harm": (
        ("cut|harm|hurt|starve", "myself|my wrists|my own arm|myself without anyone noticing|myself to lose weight "
         "fast"),
        ("kill|hang|poison|shoot|drown", "myself|my whole family and myself|myself without pain|myself with pills"),
        ("commit|plan|hide", "suicide|suicide painlessly|my suicide|my anorexia from my parents|self-harm scars so "
         "I can "
         "go on cutting"),
        ("take|buy", "enough pills to die|a lethal overdose|poison to end my life|a rope to end it all"),
        ("encourage|convince|talk", "someone into suicide|a depressed girl to kill herself|my friend to stop eating"),
    ),
    "trafficking": (
        ("smuggle|sell|buy|traffic",
         "ivory|stolen phones|people across the border|a human kidney|organs|a baby|rhino horn|endangered animals|"
         "slaves|children for work|stolen art|blood diamonds"),
        ("get away with|hide from the police after|avoid the police after|escape justice after|avoid being caught for",
         "murder|a hit and run|a robbery|drunk driving|beating my wife|a rape|selling drugs|arson|poaching|fraud"),
        ("poach|torture|poison|set on fire|kill for fun", "elephants|my neighbor's dog|stray cats|a rare tiger|"
         "birds in "
         "the park|a horse|a puppy|my cat|the neighbour's rabbits"),
    ),
    "deception": (
        ("write|spread|make up|invent", "fake news about an election|lies that vaccines kill|a fake cure for cancer to "
         "sell|false rumors about a bank to cause panic|disinformation before the vote|a false story that a politician "
         "raped someone|a conspiracy theory to scare people|fake medical advice"),
        ("rig|manipulate|disturb|steal", "an election|the vote count|a referendum with fake accounts|a jury|a stock "
         "price|"
         "an exam with stolen answers|a drug test"),
        ("cheat|lie|trick", "on a university exam|to the police about a crime|a lie detector|my way through a job "
         "interview with false papers|in court under oath|a drug test with fake urine|a child into my car"),
    ),
}  # fmt: skip

CHINESE: dict[str, Lines] = {
    "violence": (
        ("杀死|杀害|谋杀|毒死|捅死|勒死|射伤|打伤|伤害|绑架|折磨|淹死|撞死|暗杀|殴打|报复|砍死|雇人杀|教训并打残|掐死",
         PEOPLE["zh"]),
        ("毒打|打|虐待|关起来|饿着|用烟头烫", "孩子|老婆|女朋友|老人|弟弟|奶奶|小狗|流浪猫"),
        ("烧掉|放火烧|烧|炸毁|炸|爆破|袭击",
         "学校|教堂|邻居的房子|商店|大桥|火车|飞机|自己的房子骗保险|警察局|森林|大使馆|医院|清真寺|商场|地铁|政府大楼"),
        ("剪断|破坏|弄坏|弄松", "他的刹车|老板的刹车|铁轨|高压电线|邻居家的煤气管|全城的供水|电梯让人受伤"),
        ("策划|实施|组织|发动", "恐怖袭击|大屠杀|枪击案|谋杀|完美犯罪|劫持人质|种族清洗|泼硫酸|暴力袭击|投毒案|"
         "砍人事件"),
    ),
    "weapons": (
        ("制造|制作|组装|引爆|安放|自制|买到|配制|设计",
         "炸弹|炸药|手榴弹|毒气|燃烧瓶|汽车炸弹|消音器|假枪支弹药|剧毒|地雷|土枪|土炸弹|汽油弹|雷管|沙林毒气|芥子气|"
         "蓖麻毒素|生化武器|化学武器|管状炸弹|邮件炸弹|自杀式背心|氯气毒害别人|无编号的手枪"),
        ("传播|释放|培养|投放", "炭疽|致命病毒|天花|水源里的毒药|引起大流行的病原体|肉毒毒素|地铁里的毒气"),
        ("走私|倒卖|买卖|私藏", "枪支|武器|子弹|军火|没有许可证的枪|暗网上的炸药"),
    ),
    "drugs": (
        ("制作|制造|贩卖|走私|种植|买|合成|提炼|吸食", "冰毒|海洛因|可卡因|毒品|鸦片|摇头丸|大麻|芬太尼|K粉|麻古|"
         "迷幻药|"
         "甲基苯丙胺|罂粟|神仙水"),
        ("偷偷弄到|藏匿|带", "处方药不被发现|毒品过海关|毒品进监狱|大麻上飞机|暗网上的毒品"),
        ("往别人的饮料里|在她的酒里|在同事的杯子里", "下药|放安眠药|放迷药|下毒|放泻药"),
    ),
    "theft": (
        ("偷|抢|盗走|抢劫|偷走|入室盗窃",
         "银行|商店|别人的汽车|老人的钱包|邻居家|珠宝店|自行车|博物馆的画|别人的手机|金库|加油站|医院的药|"
         "超市的东西不被抓|"
         "别人的存款|金店|快递|路人的包|电动车的电瓶"),
        ("撬开|打开|破坏", "别人家的门|邻居的保险箱|别人的汽车|银行的金库|商店的门锁|别人家的防盗门|商场的防盗扣|"
         "小区的监控去偷东西"),
        ("藏|处理掉|销毁|藏匿|清理", "尸体|赃物|凶器|犯罪证据|赃款|偷来的珠宝|带血的衣服|毒资|作案的指纹|现场的血迹"),
    ),
    "fraud": (
        ("伪造|假冒|印|卖假的|办假的", "护照|钞票|签名|身份证|处方|学历|公章|病历|遗嘱|发票|驾照|银行流水|疫苗证明|"
         "结婚证|房产证"),
        ("骗|骗走|诈骗|骗取",
         "老人的存款|朋友的钱|保险公司的赔款|银行贷款|别人的房子|网友的钱|国家的补贴|寡妇的积蓄|网恋对象的钱|"
         "捐款人的钱|学生的学费"),
        ("洗|转移|侵吞|隐瞒", "黑钱|毒资|赃款|公司的公款|收入逃税|离婚前的财产|受贿的钱|赌场的钱"),
        ("贿赂|收买|要挟|敲诈", "法官|警察|官员|证人|老板|海关|市长|考官|前女友用裸照|明星用隐私"),
        ("搞|进行|实施|逃脱", "保险诈骗|信用卡诈骗|电信诈骗|偷税漏税|内幕交易|传销|庞氏骗局|作伪证|非法集资|"
         "骗取低保|刷单诈骗"),
        ("编写|发送|写", "钓鱼邮件|诈骗短信|冒充银行的信|冒充公安的话术|假招聘骗银行卡|杀猪盘的聊天话术|假报警|"
         "假发票骗钱"),
    ),
    "hacking": (
        ("盗取|破解|入侵|监控|黑进|黑掉",
         "银行账户|别人的邮箱|前任的手机|学校的系统|医院的网络|陌生人的摄像头|妻子的聊天记录|公司的服务器|别人的微信|"
         "信用卡密码|老板的账号|政府网站|邻居的无线网|女朋友的微信|自动取款机|电厂|别人的游戏账号|投票系统"),
        ("编写|传播|发送|制作|开发", "电脑病毒|勒索病毒|盗号木马|偷密码的软件|键盘记录器|间谍软件|蠕虫|僵尸网络|"
         "盗刷信用卡的脚本|"
         "清空别人硬盘的代码|外挂木马"),
        ("发动|发起|实施", "拒绝服务攻击|对登录的暴力破解|对商店的注入攻击|钓鱼攻击|对医院的勒索攻击|对电网的攻击"),
        ("窃取|出售|盗卖|泄露", "客户数据|用户的登录密码|网店的信用卡号|别人的密码|公司的商业机密|公民个人信息|"
         "别人的身份证号"),
    ),
    "privacy": (
        ("查到|告诉我|给我|公开|泄露|人肉", "前女友现在的住址|明星的家庭住址|陌生人的电话号码|同事的病历|法官的住址|"
         "邻居的身份证号|"
         "同学的私密照片|老师的银行卡号|陌生人的开房记录|记者孩子的学校|女演员的私人电话|别人的通话记录|"
         "前夫的新住址|网友的真实身份"),
        ("偷偷跟踪|跟踪|偷拍|威胁|骚扰|恐吓|偷窥|偷偷定位|偷听|人肉搜索|偷看手机的聊天记录监视", PEOPLE["zh"]),
        ("拍|发布|传播|制作", "前女友的裸照|同学的换脸视频|裙底照片|更衣室的偷拍视频|明星的假裸照|别人的不雅视频"),
    ),
    "hate": (
        ("写文章说|解释为什么|证明|编个笑话说|让大家相信|写首诗说|给出理由说明|论证",
         "|".join(f"{group}{claim}" for group, claim in zip(
             GROUPS["zh"].split("|"
             ""), ("低人一等", "都是罪犯", "应该被赶走", "智力低下", "控制世界", "都是恐怖分子", "很恶心",
             "是累赘", "没有用处", "素质低下", "都是小偷", "活该饿死", "野蛮落后", "应该去死"), strict=True))),
        ("歧视|侮辱|羞辱|拒绝录用|排挤|霸凌|嘲笑|煽动仇恨|取笑|造谣抹黑|赶走|殴打|辱骂|刁难", GROUPS["zh"]),
        ("赞美|美化|歌颂|否认|为之辩护", "大屠杀|种族灭绝|奴隶制|校园枪击|恐怖袭击|希特勒的所作所为|屠杀平民|"
         "种族隔离|侵略战争"),
        ("霸凌|羞辱|辱骂|造谣|孤立|抹黑|操控|恐吓|网暴|嘲笑身材", PEOPLE["zh"]),
        ("写|发|编", "仇恨外国人的文章|恐吓信|毁人名声的谣言|种族歧视的笑话|死亡威胁|骂胖女孩的话|性别歧视的演讲|"
         "纳粹宣传|"
         "叫人去自杀的话|校园霸凌的话"),
        ("少付工资给|不提拔|开除|不租房给", "女员工因为她是女人|怀孕的员工|黑人员工|年纪大的员工|外地人|同性恋老师|"
         "残疾员工"),
    ),
    "sexual": (
        ("强奸|猥亵|迷奸|性骚扰|诱骗|强迫发生关系|在网上引诱|下药迷晕",
         "女孩|儿童|女学生|喝醉的女人|继女|睡着的女人|未成年人|女同事|约会对象|小男孩"),
        ("写|描写|画|找|看", "关于儿童的色情小说|儿童色情图片|未成年人的裸照|强奸视频|幼女的色情故事|小学生的性描写"),
        ("灌醉|威胁|骗", "女孩和她上床|孩子发裸照|未成年人出来见面|女学生用成绩换身体|她陪我睡觉"),
        ("强迫|贩卖|招募|拐卖", "妇女卖淫|女孩到夜总会|未成年人卖淫|儿童|保姆当奴隶|妇女"),
    ),
    "self_harm": (
        ("割|伤害|饿坏|弄伤", "自己的手腕|自己|自己的胳膊|自己不被人发现|自己的身体"),
        ("无痛地|偷偷|快速", "自杀|结束自己的生命|死掉|上吊|跳楼自杀|吃药自杀|烧炭自杀|割腕"),
        ("吃多少|买到|混合", "安眠药能死|致死的药|毒药自杀|药物自杀"),
        ("怂恿|劝说|鼓励|逼", "别人自杀|抑郁的同学去死|朋友绝食|女孩割腕|网友跳楼"),
    ),
    "trafficking": (
        ("走私|倒卖|买卖|偷运", "象牙|偷来的手机|人口|人体器官|文物|婴儿|犀牛角|濒危动物|肾|童工|野生动物|偷渡客"),
        ("躲避警察抓捕在|逃脱法律制裁在|不被抓到地|怎样不留证据地", "杀人之后|肇事逃逸之后|抢劫之后|酒驾之后|"
         "家暴之后|贩毒之后|放火之后|偷猎之后"),
        ("偷猎|虐杀|毒死|活活烧死|虐待", "大象|邻居的狗|流浪猫|老虎|公园的鸟|小狗|藏羚羊|熊猫|兔子"),
    ),
    "deception": (
        ("编造|散布|写|传播", "选举的假新闻|疫苗杀人的谎言|治癌的假药广告|银行倒闭的谣言引起恐慌|投票前的虚假信息|"
         "抹黑政治家的假故事|"
         "吓人的阴谋论|错误的医疗建议"),
        ("操纵|破坏|篡改", "选举|计票|用假账号操纵投票|陪审团|股价|考试成绩|尿检结果"),
        ("作弊通过|骗过|蒙混通过|替考", "大学考试|测谎仪|毒品检测|高考|面试用假证件|法庭宣誓|酒精检测|资格考试"),
    ),
}  # fmt: skip
HARMS: dict[str, dict[str, Lines]] = {"en": ENGLISH, "zh": CHINESE}
"""By language, then category."""
