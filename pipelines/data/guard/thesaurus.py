"""Kinds of words that decide whether a request is unsafe, so that the guard knows words it was never trained on.

    "strangle", "勒死" ──words.kind_of──► kill          "my aunt", "姑妈" ──► person

A linear model of words alone cannot know that "strangle my aunt" is like "kill my boss"; of kinds, it learns "kill,
person" from any of them. English words count in all of their forms (words.stem).
"""

from __future__ import annotations

KINDS: dict[str, tuple[str, str]] = {  # kind: (English words, Chinese words)
    "kill": (
        "kill murder strangle behead suffocate assassinate choke drown slay slaughter exterminate lynch smother stab "
        "shoot poison eliminate massacre genocide hitman dismember bludgeon decapitate electrocute garrote euthanize "
        "crucify trample",
        "杀 杀死 杀害 谋杀 毒死 捅死 勒死 掐死 砍死 撞死 淹死 暗杀 刺杀 枪杀 弄死 干掉 灭口 残杀 闷死 打死 捅 毒杀 "
        "屠杀 杀人 杀掉 除掉 下毒 投毒 开枪 捂死 烧死 踢死 饿死 电死 枪毙 处决 割喉 索命 弄没 送走 断气 失血 致死 "
        "杀光 灭门 暴毙 害死",
    ),
    "hurt": (
        "beat hit slap punch hurt injure harm attack assault torture maim abuse kick whip cripple wound mutilate "
        "ambush mistreat molest burn torment acid bruise batter thrash scald stomp spank smack flog brutalize "
        "violence violent disfigure paralyze fracture",
        "打 殴打 毒打 伤害 虐待 折磨 打伤 弄伤 袭击 攻击 砍 家暴 报复 体罚 烫 打残 泼 虐 揍 踢 掐 抽打 砍伤 刺伤 "
        "弄疼 弄断 打断 毁容 致残 暴打 围殴 打晕 捂晕 鞭打 打骂 收拾 教训 暴力 打架 弄哭 下狠手",
    ),
    "seize": (
        "kidnap abduct hostage imprison enslave traffic captive detain confine cage captivity gag handcuff slave "
        "servitude trafficker",
        "绑架 劫持 拐卖 拐骗 囚禁 关起来 贩卖人口 非法拘禁 扣押 拘禁 绑 捆 拐走 抓走 扣下 奴役 人质 软禁",
    ),
    "stalk": (
        "stalk spy surveil wiretap eavesdrop dox peep upskirt snoop secretly voyeur tail tapping spycam surveillance "
        "monitor eavesdropper lurk",
        "跟踪 偷拍 偷窥 监视 监控 监听 偷听 定位 人肉 偷看 尾随 偷偷 偷录 窃听 盯梢 蹲守 追踪 针孔 窥探 查岗 挖出 扒出",
    ),
    "threaten": (
        "threaten blackmail extort intimidate coerce harass bully humiliate insult bribe ransom groom manipulate "
        "gaslight menace terrorize scare frighten pressure taunt pester nag cyberbully troll shame ridicule degrade "
        "belittle mock provoke despair",
        "威胁 敲诈 勒索 恐吓 骚扰 霸凌 羞辱 侮辱 辱骂 贿赂 收买 要挟 逼 强迫 操控 网暴 骂 威逼 胁迫 吓唬 吓 逼迫 "
        "逼到 围攻 挖苦 取笑 嘲笑 嘲讽 讽刺 贬低 欺负 纠缠 骂人 起外号 孤立 羞",
    ),
    "steal": (
        "steal rob burgle burglary shoplift snatch loot pickpocket mug embezzle robbery hotwire theft heist stolen "
        "filch poach plunder ransack shoplifter thief burglar robber siphon skim pilfer",
        "偷 抢 盗走 抢劫 偷走 盗窃 打劫 抢走 盗用 盗取 窃取 侵吞 行窃 扒窃 偷来 小偷 盗刷 撬开 撬 顺走 盗 劫 抢夺 扒 "
        "撬锁 抢来 偷拿 私吞 挪用 卷款 卷走 贪污 抽走 冒领",
    ),
    "hack": (
        "hack crack bypass hijack infiltrate exploit phish ddos brute bruteforce inject intrude jailbreak hacker "
        "breach penetrate spoof sniff decrypt payload shellcode overflow bot sql xss keygen pwn bypassing takeover "
        "deface spam sim-swap",
        "入侵 破解 黑进 黑掉 攻破 盗号 钓鱼 绕过 劫走 注入攻击 黑客 渗透 抓包 嗅探 提权 注入 脱库 撞库 打瘫 瘫痪 "
        "劫持流量 拿下服务器 挂马 反弹 远控 免杀",
    ),
    "forge": (
        "forge fake counterfeit falsify clone bogus forgery impersonate replica imitation fabricate falsified fakes "
        "mimic imposter pirated backdate",
        "伪造 假冒 造假 冒充 假的 假 复制 仿冒 办假 篡改 仿造 假货 假证 假章 假票 假发票 仿制 编造数据 假文凭 做旧 "
        "改动 涂改 虚假 假冒伪劣 假身份",
    ),
    "deceive": (
        "scam cheat trick con defraud swindle deceive lie fraud launder ponzi pyramid rig evade phony dupe hoax fool "
        "perjury mislead bluff dishonest hoodwink betray scammer fraudster impostor trickery misinform "
        "disinformation conspiracy overcharge kickback stuffing plagiarize dodge",
        "骗 诈骗 欺骗 骗走 骗取 洗钱 洗 逃税 传销 庞氏骗局 作弊 蒙混 骗局 套路 操纵 作伪证 动手脚 骗过 哄骗 诱骗 "
        "蒙骗 忽悠 糊弄 杀猪盘 刷单 假中奖 行骗 话术 偷税 漏税 避税 空壳 吃回扣 替考 抄袭 舞弊 塞票",
    ),
    "make": (
        "make build create assemble construct produce cook synthesize brew manufacture prepare mix design craft grow "
        "culture extract formulate recipe homemade ingredient synthesis concoct ferment distill purify refine "
        "convert modify blend react reaction cultivate breed print 3d-print solder instructions precursor",
        "做 制作 制造 造 组装 合成 提炼 配制 自制 培养 配方 制成 煮 制备 调配 种植 生产 设计 调制 混合 混在 加工 "
        "改装 改造 焊 打印 蒸馏 提纯 繁殖 掺 反应 路线 原料 零件 研制",
    ),
    "trade": (
        "buy sell get obtain smuggle deal order purchase acquire sneak trade ship import export vendor supplier "
        "darknet marketplace dealer fence peddle resell auction deliver",
        "买 卖 购买 走私 贩卖 倒卖 弄到 买到 出售 交易 带 偷运 私藏 贩 进货 供货 渠道 暗网 卖家 买家 上家 下家 销赃 "
        "邮寄 转手 拍卖 夹带 送货",
    ),
    "destroy": (
        "destroy bomb explode demolish sabotage derail arson ignite detonate torch blow raze tamper disable "
        "vandalize wreck smash damage ruin collapse incinerate",
        "炸 炸毁 爆破 引爆 放火 纵火 烧掉 烧毁 烧 破坏 摧毁 炸掉 剪断 弄坏 点燃 烧了 砸 砸烂 炸塌 毁掉 烧光 割断 "
        "切断 推倒 点着 点了 弄塌 搞垮 弄瘫 毁坏",
    ),
    "conceal": (
        "hide conceal dispose dump bury cover undetected untraceable traceless caught unnoticed avoid cover-up wipe "
        "erase scrub bleach escape flee elude disappear vanish anonymous stash suspicion undetectable",
        "藏 隐藏 处理掉 销毁 掩盖 掩埋 毁尸灭迹 不被发现 不被抓 查不出来 不留痕迹 逃脱 逃避 躲避 不让 不会坐牢 隐瞒 "
        "不留证据 抹掉 擦掉 清除痕迹 逃跑 逃出 躲过 避开 瞒着 不让发现 不露马脚 消失 匿名 查不到 不被看见 看不出 "
        "闻不到 没人发现 销毁证据 顶罪 脱罪 逃",
    ),
    "write": (
        "write compose draft post tweet publish spread tell say give send pen message speech article text essay",
        "写 编写 发 发布 散布 传播 编造 编 给我 告诉 说 讲 文章 帖子 演讲 短信 消息",
    ),
    "code": (
        "code script program software app develop macro algorithm compile",
        "代码 脚本 程序 软件 开发 宏 爬虫 代码段",
    ),
    "sex": (
        "rape sex sexual nude naked porn erotic grope fondle undress prostitute prostitution brothel seduce orgasm "
        "nudes deepfake sexy lust fetish strip undressed topless bikini hook-up escort pimp lewd intimate genitals "
        "virgin incest",
        "强奸 色情 裸照 裸体 猥亵 迷奸 性骚扰 性侵 卖淫 换脸 上床 性 不雅 摸 下药 迷晕 灌醉 裙底 嫖 性感 情色 黄色 "
        "脱掉 脱衣 接客 嫖娼 性交 乱伦 陪睡 潜规则 淫秽 做爱 发生关系 洗澡 偷情 勾搭",
    ),
    "suicide": (
        "suicide overdose pill die anorexia wrist noose selfharm lethal slit asphyxiate starve purge vomit hopeless "
        "laxative self-harm cutting bulimia jump",
        "自杀 自残 割腕 上吊 跳楼 烧炭 轻生 结束生命 寻死 绝食 去死 死掉 安眠药 烧炭自杀 催吐 厌食 不想活 想死 "
        "活不下去 一了百了 解脱 了结 走绝路 绝路 跳河 跳下去 割 服毒 吞药 节食 自我伤害",
    ),
    "slur": (
        "inferior parasite vermin subhuman scum worthless disgusting savage lesser superior stupid dumb criminal "
        "racist sexist propaganda hate slur deport disease discriminate filthy lazy dirty primitive barbaric ape "
        "uncivilized retard thug pervert sick sinful abomination backward invade infest plague burden barbarian "
        "whore bitch",
        "低人一等 寄生虫 垃圾 劣等 蠢 恶心 野蛮 智力低下 歧视 赶走 排挤 仇恨 素质低下 累赘 煽动 笨 必须除掉 纳粹 "
        "抹黑 造谣 懒 脏 贱 蛮夷 下等 低等 猪 狗东西 畜生 废物 变态 有病 落后 素质差 低能 残废 丑 娘娘腔 骗子 滚回 "
        "低贱 骂名 智商低 高贵 劣",
    ),
    "self": (
        "myself me my mine i",
        "自己 我 我的",
    ),
    "person": (
        "person people someone somebody man men woman wife husband neighbor neighbour boss teacher classmate "
        "colleague coworker stranger roommate politician brother sister mother father mom dad uncle aunt cousin "
        "friend girlfriend boyfriend ex judge mayor policeman cop officer guest celebrity passenger tourist "
        "pedestrian witness nurse doctor president minister senator landlord grandma grandpa grandmother grandfather "
        "stepfather stepmother spouse partner lover rival customer employee student professor actor actress singer "
        "journalist him her them parent family inmate prisoner homeless patient crowd mother-in-law driver girl boy "
        "lady guy niece nephew grandson granddaughter son daughter pal buddy mate fiance widow widower senior elder "
        "tenant housemate villager citizen official secretary manager cashier shopkeeper waiter waitress cyclist "
        "blogger streamer youtuber influencer queen priest imam rabbi pastor coach babysitter nanny maid gardener "
        "mailman soldier guard sergeant protester activist voter editor anchor ceo owner heir twin stepmom stepdad "
        "stepson in-law",
        "人 别人 他人 邻居 老板 警察 妻子 老婆 丈夫 老公 老师 同学 同事 陌生人 室友 市长 老人 弟弟 哥哥 姐姐 妹妹 "
        "父母 爸爸 妈妈 叔叔 阿姨 婆婆 岳母 前女友 前男友 前妻 前夫 女朋友 男朋友 路人 法官 医生 朋友 男人 女人 女孩 "
        "男孩 女生 男生 客人 全家 明星 仇人 上司 员工 学生 记者 演员 歌手 官员 证人 商人 乘客 房东 客户 家人 亲戚 "
        "亲人 爷爷 奶奶 舅舅 姑妈 他 她 老头 司机 对手 情敌 网友 儿子 女儿 侄子 外甥 孙子 公公 岳父 继父 继母 继子 "
        "嫂子 姐夫 合伙人 秘书 经理 收银员 服务员 保姆 教练 主播 博主 网红 粉丝 村民 市民 议员 部长 总统 候选人 选民 "
        "保安 士兵 犯人 囚犯 寡妇 丈母娘 未婚妻 新娘 店主 顾客 租客 同桌 班长 校长 导师 教授 经纪人 歌星 女星 女主播 "
        "前任 新欢 第三者 小三 胖子 老太太 老头子 大爷 大妈 债主 仇家 同行 对门",
    ),
    "child": (
        "child children kid minor teen teenager toddler baby infant schoolgirl schoolboy underage preteen "
        "stepdaughter pupil orphan youngster juvenile tween kindergarten schoolchild boyhood stepchild",
        "孩子 儿童 小孩 未成年人 未成年 婴儿 幼女 小学生 中学生 继女 女学生 小男孩 小女孩 女童 男童 幼童 初中生 "
        "高中生 学生妹 少女 少年 娃 宝宝 幼儿 孤儿 小姑娘 萝莉",
    ),
    "group": (
        "women immigrant foreigner jew jewish muslim christian black asian gay lesbian trans refugee indigenous "
        "gypsy hispanic mexican arab african chinese homosexual minority roma romani sinti asylum latino latina "
        "polish turkish turk indian pakistani japanese korean russian ukrainian vietnamese buddhist hindu sikh "
        "catholic atheist lgbt bisexual queer transgender deaf autistic pregnant elderly veteran feminist migrant "
        "islam judaism ethnic ethnicity race racial religion religious gender female autism wheelchair",
        "外国人 移民 黑人 犹太人 穆斯林 同性恋 残疾人 老年人 农村人 外地人 穷人 少数民族 难民 基督徒 女性 孕妇 "
        "河南人 东北人 上海人 广东人 新疆人 藏族 维吾尔 回族 满族 日本人 韩国人 印度人 非洲人 美国人 俄罗斯人 越南人 "
        "亚洲人 白人 跨性别 双性恋 盲人 聋哑人 自闭症 宗教 佛教徒 信徒 种族 民族 外国名字 农民工 乡下人 老人家 "
        "胖女生 肥胖 艾滋病人 地域 性别 残障",
    ),
    "weapon": (
        "gun grenade explosive rifle pistol ammunition napalm sarin ricin anthrax thermite molotov silencer landmine "
        "missile bioweapon shotgun bullet firearm tnt dynamite detonator semtex tatp nerve mustard smallpox "
        "botulinum pathogen fertilizer warhead revolver weapon ammo machete dagger knife blade crossbow taser nuke "
        "nuclear mortar sniper propellant gunpowder nitroglycerin ied detonation phosgene chlorine hydrogen-cyanide "
        "biohazard ebola",
        "炸弹 炸药 枪 枪支 手榴弹 毒气 燃烧瓶 地雷 子弹 土枪 手枪 步枪 雷管 沙林 芥子气 蓖麻毒素 炭疽 生化武器 "
        "化学武器 汽油弹 武器 军火 消音器 导弹 神经毒气 炭疽菌 硫酸 弹药 肉毒毒素 天花 刀具 匕首 砍刀 弓弩 弩 电击枪 "
        "狙击 冲锋枪 机枪 火药 黑火药 硝化甘油 引信 手雷 火箭弹 核弹 脏弹 爆炸物 爆炸 氯气 光气 病原体 鼠疫 埃博拉 "
        "致命细菌 连发 枪管 定时炸弹",
    ),
    "poisons": (
        "cyanide arsenic toxin toxic venom strychnine antifreeze thallium mercury polonium hemlock nightshade "
        "pesticide rodenticide insulin",
        "毒药 氰化物 砒霜 毒 毒素 剧毒 老鼠药 百草枯 毒物 农药 敌敌畏 铊 汞 乌头 毒蘑菇 毒鼠强 防冻液 毒饵",
    ),
    "drug": (
        "drug meth methamphetamine cocaine heroin fentanyl opium ecstasy lsd mdma ghb ketamine dmt oxycodone weed "
        "cannabis amphetamine roofie narcotic opioid xanax marijuana pcp psilocybin steroid sedative barbiturate "
        "morphine codeine adderall ritalin psychedelic anesthetic chloroform rohypnol",
        "毒品 冰毒 海洛因 可卡因 鸦片 摇头丸 大麻 芬太尼 K粉 麻古 迷幻药 罂粟 迷药 甲基苯丙胺 麻醉 吗啡 可待因 致幻 "
        "毒贩 嗑药 嗨 药头 溜冰 蓝精灵 三唑仑 乙醚 氯仿 笑气 镇静剂 兴奋剂 阿片 上头电子烟 毒瘾",
    ),
    "malware": (
        "virus ransomware keylogger trojan spyware malware botnet worm rootkit backdoor adware zero-day phishing-kit "
        "cryptominer dropper macro-virus logic-bomb",
        "病毒 勒索病毒 勒索软件 木马 间谍软件 恶意软件 键盘记录器 僵尸网络 蠕虫 后门 外挂 远控木马 挖矿程序 流氓软件 "
        "恶意代码 攻击脚本 钓鱼网站 钓鱼页面 逻辑炸弹",
    ),
    "account": (
        "account password email phone whatsapp instagram facebook wifi webcam server network computer database login "
        "iphone laptop router gmail pin snapchat chat mailbox telegram tiktok twitter snap icloud cloud cookie token "
        "otp netflix steam firewall cctv smartphone tablet portal website profile inbox",
        "账户 账号 密码 邮箱 手机 微信 支付宝 摄像头 服务器 网络 系统 电脑 聊天记录 数据库 无线网 网站 验证码 朋友圈 "
        "邮件 抖音 微博 小红书 淘宝 网银 云盘 登录 防火墙 监控录像 平台 后台 二维码 两步验证 通讯录 小号 网页 页面",
    ),
    "money": (
        "money cash bank credit card saving insurance tax atm pension dollar register jewel jewelry gold wallet loan "
        "fund charity investor invoice savings benefit subsidy grant donation bitcoin crypto coin fee salary payroll "
        "stock share bond lottery casino mortgage inheritance compensation payout",
        "钱 现金 银行 信用卡 存款 保险 保险金 税 取款机 退休金 金店 珠宝 贷款 公款 金库 保险箱 钱包 养老金 赃款 黑钱 "
        "补助 补贴 低保 捐款 比特币 虚拟币 手续费 工资 股票 彩票 赌场 房贷 遗产 赔偿 理赔 押金 定金 保护费 学费 医保 "
        "社保 养老 收银台 财务 打款 汇款",
    ),
    "paper": (
        "passport id license licence prescription diploma banknote bill signature certificate check cheque statement "
        "degree transcript visa permit deed will ballot ticket stamp seal receipt badge plate",
        "护照 身份证 驾照 处方 学历 钞票 签名 发票 病历 公章 证件 假币 假钞 遗嘱 流水 证明 学位证 毕业证 签证 合同 "
        "房产证 结婚证 选票 门票 印章 收据 工作证 车牌 票据 证书 审批 体检报告 成绩单",
    ),
    "place": (
        "school church mosque synagogue house shop store train plane bridge hospital airport mall subway embassy "
        "station restaurant concert stadium museum factory temple car vehicle brake bus market supermarket theater "
        "cinema metro tram port harbor dam reservoir pipeline plant warehouse flat apartment hotel hostel gym bar "
        "club nightclub kiosk pharmacy bakery farm town city street parliament court jail border checkpoint",
        "学校 教堂 清真寺 房子 商店 火车 飞机 大桥 医院 机场 商场 地铁 大使馆 警察局 饭店 超市 汽车 车 刹车 寺庙 "
        "幼儿园 市场 电影院 车站 港口 水库 大坝 工厂 仓库 办公室 公寓 旅馆 酒店 健身房 酒吧 夜店 药店 小卖部 农场 "
        "村里 全村 城市 街上 法院 监狱 海关 边境 体育馆 更衣室 浴室 卧室",
    ),
    "private": (
        "address ssn medical record number location whereabout diary photo privacy conversation secret "
        "medical-history whereabouts license-plate itinerary schedule log routine contact dossier diagnosis affair",
        "住址 地址 电话 身份证号 隐私 开房记录 行踪 照片 个人信息 真实身份 通话记录 病史 行程 通话 家庭住址 住在哪 "
        "住哪 学校地址 车牌号 工资单 欠债 私密 感情史 身份 姓名 手机号 聊天 婚外情 信息",
    ),
    "evidence": (
        "body corpse evidence fingerprint blood alibi remain dna bloodstain autopsy grave burial forensic",
        "尸体 证据 凶器 指纹 血迹 赃物 痕迹 监控记录 目击者 尸检 埋尸 血衣 口供 作案",
    ),
    "crime": (
        "terrorist terrorism crime murderer gang cartel holocaust slavery extremist nazi isis rapist felony offense "
        "assassin mafia drug-lord robbery-homicide war-crime atrocity",
        "恐怖袭击 恐怖分子 枪击案 大屠杀 犯罪 谋杀案 黑帮 奴隶制 凶手 歹徒 恐怖主义 选举 案件 罪行 杀人犯 纵火犯 "
        "强奸犯 绑匪 恐袭 暴行 黑手党 连环杀手 劫匪",
    ),
    "wild": (
        "elephant tiger ivory rhino dog cat puppy horse pangolin bear wolf lion leopard turtle shark whale eagle "
        "panda monkey gorilla bird kitten rabbit hamster animal wildlife species dolphin fur",
        "象牙 大象 老虎 狗 猫 小狗 流浪猫 犀牛角 熊猫 穿山甲 熊 狼 狮子 豹 海龟 鲨鱼 鹰 猴 鸟 兔子 动物 熊掌 犀牛 "
        "皮毛 小动物 宠物",
    ),
    "exclude": (
        "hire hiring dismiss reject refuse exclude evict deny underpay segregate overlook promote demote layoff ban "
        "recruit boycott",
        "录用 开除 拒绝 排除 筛掉 解雇 辞退 不租 不招 不提拔 少付 赶出 淘汰 招聘 拒收 拒载 劝退",
    ),
    "seeker": (
        "applicant candidate patron member worker staff",
        "应聘者 求职者 租户 旅客 住客 老员工 女员工",
    ),
    "device": (
        "camera microphone tracker gps spyware-app drone-camera lens earpiece airtag",
        "针孔摄像头 定位器 追踪器 录音笔 窃听器 监视器 微型相机 镜头",
    ),
    # Kinds of harmless requests.
    "computing": (
        "process python thread daemon query session container java linux docker terminal function git node windows "
        "excel column file folder spreadsheet tmux contract procedure job task bug shell api kernel variable array "
        "pointer debug repository branch commit pull-request package library module framework json xml css html "
        "regex string loop recursion cache cpu gpu memory disk partition backup firmware kubernetes cluster vm bash "
        "command shell-script localhost unix mac macbook cell row table schema master",
        "进程 线程 子进程 查询 会话 容器 函数 文件 表格 一列 存储过程 窗口 终端 任务 代码分支 变量 数组 指针 编译 "
        "调试 分支 提交 依赖 缓存 内存 硬盘 备份 驱动 固件 集群 虚拟机 命令行 端口 单元格 索引 主库 从库 异步 接口 "
        "软件包 日志 循环 脚本报错",
    ),
    "game": (
        "game chess minecraft skyrim level monster dragon zombie npc sims elden mage xbox poker scrabble baseball "
        "tennis boxing gta player goal team match opponent character rpg fps dungeon quest raid pvp esports pokemon "
        "zelda mario fortnite roblox pubg lol dota dice board puzzle sudoku golf hockey rugby soccer cricket "
        "volleyball badminton bowling karate judo wrestling referee score penalty-kick striker league",
        "游戏 象棋 下棋 副本 僵尸 怪物 打牌 篮球 足球 网球 乒乓球 原神 角色 玩家 比赛 模拟人生 对局 王者荣耀 吃鸡 "
        "魔兽 宝可梦 马里奥 塞尔达 密室逃脱 狼人杀 三国杀 剧本杀 棋 围棋 麻将 扑克 桌游 排球 羽毛球 高尔夫 拳击 摔跤 "
        "击剑 裁判 射门 比分 联赛 通关 关卡 首领 足球赛 装备",
    ),
    "fiction": (
        "novel story movie film book plot scene series episode tv song poem fairy thriller hero villain author "
        "reader genre comic manga anime opera musical trilogy sequel screenplay detective noir mystery romance "
        "fantasy sci-fi shakespeare tolkien rowling christie poirot sherlock batman superman marvel disney "
        "documentary director",
        "小说 故事 电影 书 剧情 电视剧 歌 诗 童话 动画片 主角 反派 红楼梦 剧本 作者 作家 情节 漫画 动漫 歌剧 音乐剧 "
        "续集 侦探 推理 悬疑 武侠 科幻 奇幻 金庸 鲁迅 莎士比亚 福尔摩斯 柯南 蝙蝠侠 超人 迪士尼 导演 纪录片 谍战片 "
        "西部片 悲剧 喜剧 结局",
    ),
    "food": (
        "cake soup bread rice chicken fish turkey sauce meat egg pasta tomato onion wine brisket salmon dinner "
        "lemonade dough basil herb garlic butter cheese cream sugar salt honey flour oil noodle dumpling tofu bean "
        "pea carrot cabbage pepper mushroom apple banana orange mango grape lemon strawberry coffee tea beer whisky "
        "cocktail beef pork lamb bacon sausage shrimp crab lobster duck oven grill fry bake roast breakfast lunch "
        "snack vegetarian vegan",
        "蛋糕 汤 面包 米饭 鸡 鸡块 鱼 肉 鸡蛋 番茄 洋葱 酒 烤鸭 豆腐 菜 饺子 薯条 柠檬水 面团 黄油 奶酪 奶油 糖 盐 "
        "蜂蜜 面粉 面条 馄饨 白菜 胡萝卜 辣椒 蘑菇 苹果 香蕉 橙子 芒果 葡萄 柠檬 草莓 咖啡 茶 啤酒 威士忌 鸡尾酒 "
        "牛肉 猪肉 羊肉 培根 香肠 虾 螃蟹 鸭 烤箱 烧烤 煎 早餐 午餐 零食 素食 荷包蛋 火锅 食谱 饭",
    ),
    "pest": (
        "ant rat mosquito bacteria wasp cockroach germ mold flea lice tick snail wasps termite bedbug mice mouse "
        "aphid fungus virus-infection spider hornet gnat",
        "杂草 蚂蚁 老鼠 蚊子 细菌 马蜂 马蜂窝 蟑螂 害虫 虫子 霉菌 跳蚤 白蚁 臭虫 蚜虫 真菌 寄生虫病 蜘蛛 飞蛾 苍蝇 蛇",
    ),
    "past": (
        "history war century when historical ancient king emperor why who did was were motive invented died medieval "
        "empire dynasty revolution civil historian decade colonial era pharaoh roman greek cold-war 1939 1945 origin "
        "cause",
        "历史 战争 世纪 古代 皇帝 为什么 谁 事件 发生 动机 什么时候 朝代 帝国 革命 内战 历史学家 中世纪 年代 殖民 "
        "古罗马 古希腊 冷战 起因 由来 唐朝 宋朝 明朝 清朝 民国 抗战 二战 一战",
    ),
    "prevent": (
        "prevent protect stop detect report defend safe safely safety security secure law legal illegal punish "
        "penalty punishment victim help treat cure heal support recover quit warn rescue sign antivirus educate "
        "against advice counseling therapist therapy hotline shelter lawyer rights consent awareness research study "
        "statistics policy debate argument treaty regulation vaccine antidote first-aid emergency ambulance withdraw "
        "rehab sober comfort console grief bereavement allergy symptom side-effect risk danger dangerous donate "
        "foundation charity-run inspection insurance-claim",
        "预防 防止 保护 阻止 发现 举报 防范 安全 法律 犯法 合法 处罚 判 受害者 帮助 治疗 支持 戒 警惕 救 防 迹象 "
        "杀毒软件 反对 咨询 心理 热线 求助 庇护 律师 权利 同意 研究 统计 政策 争论 辩论 禁止 条约 疫苗 解毒 急救 "
        "救护车 康复 安慰 陪伴 过敏 症状 副作用 风险 危险 捐 报警 警示 提醒 保护自己 防身 查出 识别 认定 正当防卫 "
        "维权 申诉 科普 安全课",
    ),
    "meaning": (
        "mean definition define difference explain synonym translate word term grammar pronounce spelling idiom "
        "proverb etymology phrase sentence metaphor slang symbol",
        "意思 定义 区别 什么叫 什么是 翻译 英语 语法 发音 成语 谚语 词源 比喻 句子 俗语 造句 名言",
    ),
    "kindness": (
        "thank gift surprise party birthday cheer welcome invite congratulate celebrate friendship polite apologize "
        "trust encourage forgive wedding anniversary marry propose",
        "感谢 谢谢 礼物 惊喜 派对 生日 欢迎 邀请 祝贺 庆祝 友谊 礼貌 道歉 信任 鼓励 原谅 婚礼 求婚 关心 哄 照顾 陪 夸",
    ),
    "health": (
        "illness medicine medication dose surgery fever headache diabetes diabetic cancer pregnancy diet vitamin "
        "aspirin ibuprofen paracetamol antibiotic clinic pharmacist dentist blood-pressure sleep",
        "护士 疾病 药物 剂量 手术 发烧 头疼 糖尿病 癌症 怀孕 饮食 维生素 阿司匹林 布洛芬 扑热息痛 抗生素 诊所 药师 "
        "牙医 血压 感冒 感冒药 止咳水 胰岛素 体检",
    ),
    "home": (
        "kitchen bathroom chair lamp sofa curtain carpet shelf roof lawn flower tree paint nail screw hammer drill "
        "tile hammock pool fire-pit stove washing",
        "花园 厨房 桌子 椅子 窗户 灯 沙发 窗帘 地毯 架子 屋顶 篱笆 草坪 树 油漆 钉子 螺丝 锤子 瓷砖 吊床 泳池 院子 "
        "洗衣机 打扫 清洗 装修 收纳",
    ),
    "learn": (
        "homework exam school-project course lesson tutor learn practice math physics chemistry biology geography "
        "university class",
        "作业 作文 考试 课程 数学 物理 化学 生物 地理 大学 复习 课堂 论文",
    ),
    "travel": (
        "flight hotel-room trip vacation holiday passport-renewal luggage beach mountain hike museum-ticket "
        "sightseeing tour tourist-visa train-ticket map",
        "旅行 旅游 航班 行李 海边 爬山 景点 门票价格 地图 假期 攻略 机票 高铁票",
    ),
}
