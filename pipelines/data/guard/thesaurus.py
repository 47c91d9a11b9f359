"""Kinds of words that decide whether a request is unsafe, so that the guard knows words it was never trained on.

    "strangle", "勒死" ──kind_of──► kill          "my aunt", "姑妈" ──► person

A linear model of words alone cannot know that "strangle my aunt" is like "kill my boss"; of kinds, it learns "kill,
person" from any of them. English words are stems (stem), so that "robbed" and "robbing" are one.
"""

from __future__ import annotations

import re
from functools import lru_cache

SUFFIX = re.compile(r"(?:'s|s'|ing|ers?|ed|es|s|e)$")
KINDS: dict[str, tuple[str, str]] = {  # kind: (English words, Chinese words)
    "kill": (
        "kill murder strangle behead suffocate assassinate choke drown slay slaughter exterminate lynch smother stab "
        "shoot poison eliminate massacre genocide hitman dismember",
        "杀 杀死 杀害 谋杀 毒死 捅死 勒死 掐死 砍死 撞死 淹死 暗杀 刺杀 枪杀 弄死 干掉 灭口 残杀 闷死 打死 捅 毒杀 "
        "屠杀 杀人 杀掉 除掉 勒死 下毒 投毒 开枪",
    ),
    "hurt": (
        "beat hit slap punch hurt injure harm attack assault torture maim abuse kick whip cripple wound mutilate "
        "ambush "
        "mistreat molest burn torment acid",
        "打 殴打 毒打 伤害 虐待 折磨 打伤 弄伤 袭击 攻击 砍 家暴 报复 体罚 烫 打残 泼 虐 揍",
    ),
    "seize": (
        "kidnap abduct hostage imprison enslave traffic captive",
        "绑架 劫持 拐卖 拐骗 囚禁 关起来 贩卖人口 非法拘禁",
    ),
    "stalk": (
        "stalk spy surveil wiretap eavesdrop dox peep upskirt snoop secretly voyeur",
        "跟踪 偷拍 偷窥 监视 监控 监听 偷听 定位 人肉 偷看 尾随 偷偷",
    ),
    "threaten": (
        "threaten blackmail extort intimidate coerce harass bully humiliate insult bribe ransom groom manipulate "
        "gaslight",
        "威胁 敲诈 勒索 恐吓 骚扰 霸凌 羞辱 侮辱 辱骂 贿赂 收买 要挟 逼 强迫 操控 网暴 骂",
    ),
    "steal": (
        "steal rob burgle burglary shoplift snatch loot pickpocket mug embezzle robbery hotwire theft heist stolen",
        "偷 抢 盗走 抢劫 偷走 盗窃 打劫 抢走 盗用 盗取 窃取 侵吞 行窃 扒窃 偷来 小偷 盗刷 撬开 撬",
    ),
    "hack": (
        "hack crack bypass hijack infiltrate exploit phish ddos brute bruteforce inject intrude jailbreak hacker",
        "入侵 破解 黑进 黑掉 攻破 盗号 钓鱼 绕过 劫走 注入攻击 黑客",
    ),
    "forge": (
        "forge fake counterfeit falsify clone bogus forgery impersonate",
        "伪造 假冒 造假 冒充 假的 假 复制 仿冒 办假 篡改",
    ),
    "deceive": (
        "scam cheat trick con defraud swindle deceive lie fraud launder ponzi pyramid rig evade phony dupe hoax "
        "fool perjury",
        "骗 诈骗 欺骗 骗走 骗取 洗钱 洗 逃税 传销 庞氏骗局 作弊 蒙混 骗局 套路 操纵 作伪证 动手脚 骗过",
    ),
    "make": (
        "make build create assemble construct produce cook synthesize brew manufacture prepare mix design craft grow "
        "culture extract formulate recipe homemade ingredient synthesis",
        "做 制作 制造 造 组装 合成 提炼 配制 自制 培养 配方 制成 煮 制备 调配 种植 生产 设计",
    ),
    "trade": (
        "buy sell get obtain smuggle deal order purchase acquire sneak trade",
        "买 卖 购买 走私 贩卖 倒卖 弄到 买到 出售 交易 带 偷运 私藏 贩",
    ),
    "destroy": (
        "destroy bomb explode demolish sabotage derail arson ignite detonate torch blow raze tamper disable",
        "炸 炸毁 爆破 引爆 放火 纵火 烧掉 烧毁 烧 破坏 摧毁 炸掉 剪断 弄坏 点燃 烧了",
    ),
    "conceal": (
        "hide conceal dispose dump bury cover undetected untraceable traceless caught unnoticed evade avoid",
        "藏 隐藏 处理掉 销毁 掩盖 掩埋 毁尸灭迹 不被发现 不被抓 查不出来 不留痕迹 逃脱 逃避 躲避 不让 不会坐牢 隐瞒 "
        "不留证据",
    ),
    "write": (
        "write compose draft post tweet publish spread tell say give send pen message speech article text essay",
        "写 编写 发 发布 散布 传播 编造 编 给我 告诉 说 讲 文章 帖子 演讲 短信 消息",
    ),
    "code": ("code script program software app develop", "代码 脚本 程序 软件 开发"),
    "sex": (
        "rape sex sexual nude naked porn erotic grope fondle undress prostitute prostitution brothel seduce orgasm "
        "nudes "
        "deepfake",
        "强奸 色情 裸照 裸体 猥亵 迷奸 性骚扰 性侵 卖淫 换脸 上床 性 不雅 摸 下药 迷晕 灌醉 裙底 嫖",
    ),
    "suicide": (
        "suicide overdose pill die anorexia wrist noose selfharm lethal",
        "自杀 自残 割腕 上吊 跳楼 烧炭 轻生 结束生命 寻死 绝食 去死 死掉 安眠药",
    ),
    "slur": (
        "inferior parasite vermin subhuman scum worthless disgusting savage lesser superior stupid dumb criminal "
        "racist "
        "sexist propaganda hate slur deport disease exterminate discriminate",
        "低人一等 寄生虫 垃圾 劣等 蠢 恶心 野蛮 智力低下 歧视 赶走 排挤 仇恨 素质低下 累赘 煽动 笨 必须除掉 纳粹 "
        "抹黑 造谣",
    ),
    "self": ("myself me my mine i", "自己 我 我的"),
    "person": (
        "person people someone somebody man men woman wife husband neighbor neighbour boss teacher classmate colleague "
        "coworker stranger roommate politician brother sister mother father mom dad uncle aunt cousin friend "
        "girlfriend "
        "boyfriend ex judge mayor policeman cop officer guest celebrity passenger tourist pedestrian witness nurse "
        "doctor "
        "president minister senator landlord grandma grandpa grandmother grandfather stepfather stepmother spouse "
        "partner "
        "lover rival customer employee student professor actor actress singer journalist him her them parent family "
        "inmate prisoner homeless patient crowd mother-in-law driver seller girl boy lady guy",
        "人 别人 他人 邻居 老板 警察 妻子 老婆 丈夫 老公 老师 同学 同事 陌生人 室友 市长 老人 弟弟 哥哥 姐姐 妹妹 "
        "父母 爸爸 妈妈 叔叔 阿姨 "
        "婆婆 岳母 前女友 前男友 前妻 前夫 女朋友 男朋友 路人 法官 医生 朋友 男人 女人 女孩 男孩 女生 男生 客人 "
        "全家 明星 仇人 上司 员工 学生 "
        "记者 演员 歌手 官员 证人 商人 乘客 房东 客户 家人 亲戚 亲人 爷爷 奶奶 舅舅 姑妈 他 她 老头 司机 对手 情敌 "
        "网友",
    ),
    "child": (
        "child children kid minor teen teenager toddler baby infant schoolgirl schoolboy underage preteen stepdaughter",
        "孩子 儿童 小孩 未成年人 未成年 婴儿 幼女 小学生 中学生 继女 女学生 小男孩 小女孩",
    ),
    "group": (
        "women immigrant foreigner jew jewish muslim christian black asian gay lesbian trans disabled refugee "
        "indigenous "
        "gypsy hispanic mexican arab african chinese homosexual minority",
        "外国人 移民 黑人 犹太人 穆斯林 同性恋 残疾人 老年人 农村人 外地人 穷人 少数民族 难民 基督徒",
    ),
    "weapon": (
        "bomb gun grenade explosive rifle pistol ammunition napalm sarin ricin anthrax thermite molotov silencer "
        "landmine "
        "missile bioweapon shotgun bullet firearm tnt dynamite detonator semtex tatp nerve mustard smallpox botulinum "
        "pathogen fertilizer warhead revolver",
        "炸弹 炸药 枪 枪支 手榴弹 毒气 燃烧瓶 地雷 子弹 土枪 手枪 步枪 雷管 沙林 芥子气 蓖麻毒素 炭疽 生化武器 "
        "化学武器 汽油弹 武器 军火 "
        "消音器 导弹 神经毒气 炭疽菌 硫酸 弹药 肉毒毒素 天花",
    ),
    "poisons": ("poison cyanide arsenic toxin toxic venom strychnine", "毒药 氰化物 砒霜 毒 毒素 剧毒 老鼠药 百草枯"),
    "drug": (
        "drug meth methamphetamine cocaine heroin fentanyl opium ecstasy lsd mdma ghb ketamine dmt oxycodone crack "
        "weed "
        "cannabis amphetamine roofie narcotic opioid xanax",
        "毒品 冰毒 海洛因 可卡因 鸦片 摇头丸 大麻 芬太尼 K粉 麻古 迷幻药 罂粟 迷药 甲基苯丙胺",
    ),
    "malware": (
        "virus ransomware keylogger trojan spyware malware botnet worm rootkit backdoor adware",
        "病毒 勒索病毒 勒索软件 木马 间谍软件 恶意软件 键盘记录器 僵尸网络 蠕虫 后门 外挂",
    ),
    "account": (
        "account password email phone whatsapp instagram facebook wifi webcam server network computer database login "
        "iphone laptop router gmail pin snapchat chat mailbox",
        "账户 账号 密码 邮箱 手机 微信 支付宝 摄像头 服务器 网络 系统 电脑 聊天记录 数据库 无线网 网站 验证码 朋友圈",
    ),
    "money": (
        "money cash bank credit card saving insurance tax atm pension dollar register jewel jewelry gold wallet "
        "loan fund "
        "charity investor invoice",
        "钱 现金 银行 信用卡 存款 保险 保险金 税 取款机 退休金 金店 珠宝 贷款 公款 金库 保险箱 钱包 养老金 赃款 黑钱",
    ),
    "paper": (
        "passport id license licence prescription diploma banknote bill signature certificate check cheque statement",
        "护照 身份证 驾照 处方 学历 钞票 签名 发票 病历 公章 证件 假币 假钞 遗嘱 流水 证明",
    ),
    "place": (
        "school church mosque synagogue house shop store train plane bridge building hospital airport mall subway "
        "embassy "
        "station restaurant concert stadium museum factory temple car vehicle brake bus",
        "学校 教堂 清真寺 房子 商店 火车 飞机 大桥 医院 机场 商场 地铁 大使馆 警察局 饭店 超市 汽车 车 刹车 寺庙 "
        "幼儿园",
    ),
    "private": (
        "address ssn medical record number location whereabout diary photo privacy conversation",
        "住址 地址 电话 病历 身份证号 隐私 开房记录 行踪 照片 个人信息 真实身份 通话记录",
    ),
    "evidence": ("body corpse evidence fingerprint blood alibi remain", "尸体 证据 凶器 指纹 血迹 赃物"),
    "crime": (
        "terrorist terrorism shooting massacre crime murderer gang cartel holocaust slavery extremist attack nazi "
        "isis rapist",
        "恐怖袭击 恐怖分子 枪击案 大屠杀 犯罪 谋杀案 黑帮 奴隶制 凶手 歹徒 恐怖主义 选举",
    ),
    "wild": ("elephant tiger ivory rhino dog cat puppy horse", "象牙 大象 老虎 狗 猫 小狗 流浪猫 犀牛角 熊猫"),
    # Kinds of harmless requests.
    "computing": (
        "process python thread daemon query session container java linux docker terminal function git server node "
        "windows "
        "excel column file folder spreadsheet tmux contract stored procedure job task bug",
        "进程 线程 子进程 数据库 查询 会话 容器 函数 文件 表格 一列 存储过程 窗口 终端 任务 代码分支",
    ),
    "game": (
        "game chess minecraft skyrim level monster dragon zombie npc sims elden mage xbox poker scrabble baseball "
        "tennis "
        "boxing hitman gta player goal team match opponent character",
        "游戏 象棋 下棋 副本 僵尸 怪物 打牌 篮球 足球 网球 乒乓球 原神 角色 玩家 比赛 模拟人生 对局",
    ),
    "fiction": (
        "novel story movie film book plot scene series episode tv song poem fairy thriller hero villain",
        "小说 故事 电影 书 剧情 电视剧 歌 诗 童话 动画片 主角 反派 红楼梦 剧本",
    ),
    "food": (
        "cake soup bread rice chicken fish turkey sauce meat egg pasta tomato onion wine brisket salmon dinner",
        "蛋糕 汤 面包 米饭 鸡 鸡块 鱼 肉 鸡蛋 番茄 洋葱 酒 烤鸭 豆腐 菜 饺子 薯条",
    ),
    "pest": (
        "weed ant rat mosquito bacteria wasp cockroach germ mold flea lice tick snail wasps bug moth",
        "杂草 蚂蚁 老鼠 蚊子 细菌 马蜂 马蜂窝 蟑螂 害虫 虫子 霉菌 跳蚤",
    ),
    "past": (
        "history war century when historical ancient king emperor why who did was were motive invented died",
        "历史 战争 世纪 古代 皇帝 为什么 谁 事件 发生 动机 什么时候",
    ),
    "prevent": (
        "prevent protect stop avoid detect report defend safe safely safety security secure law legal illegal "
        "punish penalty "
        "punishment victim help treat cure heal support recover quit warn rescue sign antivirus educate against",
        "预防 防止 保护 阻止 发现 举报 防范 安全 法律 犯法 合法 处罚 判 受害者 帮助 治疗 支持 戒 警惕 救 防 迹象 "
        "杀毒软件 反对",
    ),
    "meaning": (
        "mean definition define difference explain synonym translate word term",
        "意思 定义 区别 什么叫 什么是 翻译 英语",
    ),
}


@lru_cache(maxsize=20_000)
def stem(word: str) -> str:
    """An English word without its ending, roughly: the same for all of its forms.

    >>> stem("robbing"), stem("robbed"), stem("makes"), stem("immigrants")
    ('rob', 'rob', 'mak', 'immigrant')
    """
    if len(word) < 4:
        return word
    stemmed = SUFFIX.sub("", word)
    if len(stemmed) < 3:
        return word
    return stemmed[:-1] if stemmed[-1] == stemmed[-2] and len(stemmed) > 3 and stemmed[-1] not in "slo" else stemmed


def _kinds() -> dict[str, str]:
    kinds: dict[str, str] = {}
    for kind, (english, chinese) in KINDS.items():
        for word in (*map(stem, english.split()), *chinese.casefold().split()):
            kinds.setdefault(word, kind)
    return kinds


_KIND_OF = _kinds()
_HAN_WORDS = sorted((word for word in _KIND_OF if not word.isascii()), key=len, reverse=True)
TOKEN = re.compile(rf"[a-z]+(?:['-][a-z]+)*|\d+|{'|'.join(map(re.escape, _HAN_WORDS))}|[^\W\d_]")


def kind_of(word: str) -> str | None:
    """The kind of an English stem or a Chinese word, if it has one."""
    return _KIND_OF.get(word)
