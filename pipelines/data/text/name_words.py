"""Words by which names of people are told from other words, in English and Chinese, and those that replace them.

Lists of our own making: given names and family names that are common, and words that stand where a name may stand.
"""

from __future__ import annotations


def _words(text: str) -> list[str]:
    return text.split()


# Given names that are no other word, nor a well-known place: a name wherever a person may be meant.
GIVEN = frozenset(
    _words("""
    aaron abdul abdullah abebe abena abigail adam adeola aditya adrian agnes agnieszka ahmad ahmed aisha akira akua
    alan albert alejandro aleksandr alex alexander alexandra alexei alfie ali alice alicia alison alistair alyssa
    ama amadi amanda amara amelia amina aminata amir amit amy ana anastasia anders andre andrea andreas andrew
    andrzej angela anil anita anjali ankit ann anna anne annie anthony antoine antonio anya aoife archie arjun
    arthur arun ashley ashok astrid barbara barry beatrice beatriz becca becky ben benjamin benny bernard bernd
    bertha beth betty bilal billy bjorn björn bobby bogdan boris brandon brenda brian brianna bridget bronwen bruce
    caleb callum camille carl carla carlos carmen carol caroline catherine cathy cecilia charles charlie chiara
    chidi chinedu chloe chris christian christina christine christopher ciaran cindy claire clara claudia clemens
    clive connor consuelo cristina cynthia cyril daniel daniela danielle darren dave david debbie deborah deepak
    denise dennis derek desmond diana diane diego dieter dimitri divya dmitri dmitry dominic donna doris dorothy
    douglas dragan dwayne eddie edith edna eduardo edward eileen elaine eleanor elena elias elijah elisa elizabeth
    ella ellen emeka emily emma enrique eoin eric erica erik esther ethan ethel eugene eva evelyn ewan ezra farah
    fatima fatou felipe felix femi fernando finn fiona folake francesca francesco francis francisco franz fred
    freddie frederick freja freya gabriel gabriela gareth gary geeta gemma geoff geoffrey george gerald gerard
    gerhard gideon giovanni giulia giuseppe gladys gloria goran gordon graham greg gregory greta guadalupe guoqiang
    gustavo gwen gwendolyn hamish hannah hans hans-peter harold harriet haruka haruto hassan heather heidi heinz
    helen helena helga henry hiroshi hugo hussein ian ibrahim ifeoma igor imogen imran ines ingeborg ingrid irene
    irina isaac isabel isabella isaiah ivan jacob jacqueline jake jakub jamal james jamie jan jane janet jason
    javier jean jeff jeffrey jelena jennifer jenny jeremy jerome jerry jessica jill jim jimmy jisoo joan joanna
    joao joaquin joaquín jocelyn jodie joe johan john johnny jonas jonathan jorge jose josef joseph joshua josie
    josé juan juana juergen julian julie juma jun kaitlyn karen karim karin karl karthik katarzyna kate katherine
    kathleen kathryn kathy katie kavita kayla keiko keira keith kelly ken kenji kenneth kenny kevin khadija khaled
    kim kirsty klaus kofi krzysztof kumar kwame kyle lakshmi larry lars laura lauren laurence layla leanne leila
    lena lenny leo leon leonard lerato leticia liam lihua linda linnea lisa lorenzo louie louis louise luca lucas
    lucy lucía luigi luis luke lydia magdalena maggie magnus maisie makena malgorzata mamadou manish manuel marcel
    marco marcus marek margaret marge maria mariam marianne marie marina mario marissa marjorie marta martha martin
    martina mary maría mateo matt matteo matthew matthias maureen maurice meena megan mehmet mei melanie melissa
    michael michelle miguel mike mikhail mikkel milan mildred milos minh minho mohamed mohammad mohammed molly
    moses moussa muhammad mustafa nabil nadia nancy naoki naomi natalia natalie natasha nathan neha neil ngozi
    nguyen niamh nicholas nicola nicolas nicole nigel nikhil nikolai nils nina nitin noah noel nomsa noor nora
    norman nour oksana oleg olga oliver olivia oluwaseun omar oscar osman otto ousmane pablo pamela patricia
    patrick paul paula pauline pavel pawel pedro peggy percy peter petra philip philippe phoebe phyllis pierre
    pilar piotr polly pooja prakash priya priyanka rachel rafael rahul raj rajesh ralph ramesh ramona rania rashid
    ravi raymond rebecca reginald renata rhys ricardo richard ricky rita robert roberto robin rocio roger rohit
    roland ronald rosa rosemary rosie roxanne rupert ruth ryan sabine sadie sally salma sam samantha samir
    samuel sandra sanjay sara sarah satoshi sean sebastian serena sergei sergio sharon sheila shirley shreya sian
    sigrid silvia simon simone siobhan sipho sofia sonia sophia sophie stacy stefan stefano stella stephanie
    stephen steve steven stuart sunil sunita suresh susan susanne suzanne sven svetlana sylvia søren takashi tamara
    tanya tariq tatiana ted teresa terry thabo themba theo theresa thiago thomas tigist tim timothy tina tobias
    todd tom tomas tomasz tommy tracy trevor tunde tyler ulrich ursula usha vaclav valentina valerie vandana
    vanessa velma vera veronica vicky victor vijay vikram viktor vincent vinod vivek vivian vladimir walid walter
    wanjiru wayne wei wendy werner wilhelm william wilma wolfgang xavier xiaoli xiaoming xiaowei ximena yasmin
    yasser yoko yolanda yoshiko youssef yuki yulia yusuf yvonne zachary zainab zanele zeke ziad zoe zofia zoë
    zuzana""")
)
# Where a name may stand, but none does: forms of address, what forms say, days, peoples.
NO_NAME = frozenset(
    _words("""
    a about actually after again all already also although always am an and any anybody anyone are as at be because
    before both but by can cannot could did do does each every everybody everyone everything few first for from get
    given go good great had has have he hello her here hers hey hi him his how however i if in into is it its just
    last later let lets like made many maybe me mine more most much must my neither never new next no nobody none
    nor not nothing now of off on once one only or other our ours out over own part please rather really right same
    see she should since so some somebody someone something soon still such sure thank thanks that the their theirs
    them then there therefore these they this those though three through thus to too two under unfortunately until
    up us very was we welcome well were what when whenever where whether which while who whoever whom whose why with
    without would yes yet you your yours
    admin administrator alexa applicant applicants audience author boss boys brother brothers buyer candidate
    captain ceo cfo chair chairman chairperson coordinator counsel cto deputy chairwoman chief citizen citizens
    classmates client clients colleague colleagues comrades congressman council customer customers dad daddy darling
    dear diary director doc doctor editor editors employee employees fan fans father fellow folks friend friends
    gentlefolk gentleman gentlemen girls god google governor granddad grandma grandpa granny guest guests guys heart
    heavens hiring internet jesus judge judges jury king ladies lady landlord listeners lord lover ma madam madame
    majesty mam mama mayor member members minister mom mommy mother mum mummy neighbour neighbours neighbor
    neighbors officer officers owner owners pa papa parent parents partner partners passenger passengers patient
    patients people person player players pope president prime prince princess prof professor pupils queen reader
    readers recruiter reviewer reviewers santa seller senator senators shareholder shareholders sir sire siri sirs
    sister sisters son speaker staff stranger strangers student students subscriber subscribers supervisor
    supporters teacher teachers team teammates tenant tenants user users viewers visitor visitors voters
    address age amount answer anonymous attachment attention best bottom cheers cordially love regards respectfully
    sincerely yours cell city click code company confidential copied copy country county data date default
    description details edit email empty enter error example explanation extension fax field file fixed floor form
    format full future gender general head home http https id inbox info information insert item job kind kindly
    language left legal length line link list location login mail main male female message middle missing mobile
    mode mon multiple na name names new note notes null number object optional options order original page pages
    password pending phone photo place position post print private product profile public question re read record
    reference regards registered reply report required resident room same section select self send sent sex sheet
    sign signature signed size sold stable start state status step street string subject submit table tbc tbd tel
    telephone test text time title topic total track true false type unavailable unknown unnamed unspecified
    untitled update vacant value various version view void warning website work world write year zip
    monday tuesday wednesday thursday friday saturday sunday january february march july september october november
    december today tomorrow yesterday morning afternoon evening night spring autumn winter christmas easter
    american americans arab asian african australian austrian belgian brazilian british canadian catholic chinese
    christian christians czech danish dutch egyptian english european finnish french german germans greek hindu
    hungarian indian indonesian iranian iraqi irish israeli italian italians japanese jewish jew korean latin latino
    mexican muslim muslims nigerian norwegian pakistani persian polish portuguese protestant roman romanian russian
    russians scottish spanish swedish swiss taiwanese thai turkish ukrainian vietnamese welsh buddhist
    america africa asia australia austria britain canada china england europe france germany india ireland israel
    italy japan korea london mexico russia scotland spain usa uk
    north south east west northern southern eastern western central upper lower great little big old young""")
) - {"christian"}
# Of two words or more, one of which is an organisation's, a place's, a product's or a task's: no person.
ORGANISATION = frozenset(
    _words("""
    academy account accountants accounts administration agency airlines airport alliance apartments app archive army
    artists assistance associates association authority automatic bakery bank bar board boat books brewery brigade
    broadcast brothers bureau café cafe campus care cathedral catering center centre chamber championship charity
    chat chemicals church class clinic club co coffee collection college committee commission community concerns
    conference consultants consulting content contractor corporation corp council court cross customer database
    dealer delivery dental department departments desk development digital distribution division electric
    electronics energy engineering enterprise enterprises equipment estate estates event events exchange express
    factory farm farms federation festival finance financial firm foods forum foundation fund furniture galaxy
    gallery games garage garden gardens gas gmbh government group guide handbook health helpdesk help holdings
    hospital hotel house housing human inc industries initiative inn institute insurance international investments
    island journal kingdom kitchen lab laboratories laboratory lake law library limited llc llp logistics ltd
    machine magazine maintenance management manager managers market marketing media medical memorial ministry
    monitoring motors mountain museum music national network networks news newsletter office online operations
    orchestra park partners payable payments payroll pharmacy plaza plc police policy post practice practitioner
    press procurement productions products programme program project properties protection publishing purchasing
    reception recipients records recruitment recruiting relations research resort resources restaurant review river
    road royal rules salon sales school schools sciences secretary security server service services shop society
    software solutions square staffing station stores store street studio studios suite suites supplies support
    surgery system systems team technical technologies technology theatre theater times tours traders trading
    training transport travel treasury trust union unit university valley ventures victoria villa village warehouse
    website works workshop
    beans bread bun burger burgers butter cake cakes casserole cheese cheesecake chicken chili chips chowder cookie
    cookies cream crumble cupcakes dip dough dressing drink dumplings fries gravy ice icing jam juice kebab lasagna
    lasagne lemonade loaf milk milkshake muffin muffins noodles oatmeal omelette pancake pancakes pasta pie pies
    pizza porridge potatoes pudding punch ravioli risotto roll rolls salad salsa sandwich sandwiches sauce
    scones shake smoothie soup spaghetti steak stew stir-fry sushi taco tacos tart tea toast waffles wrap wraps yogurt
    api bot browser compiler database engine framework model module plugin script toolkit""")
)
# After a title, of fiction or of goods: Dr Pepper, Miss Universe.
NO_TITLED = frozenset(
    _words("""
    america bean clean chairman claus congeniality doolittle freeze fox magazine martens marvel men nobody pepper
    perfect piggy potato president right saigon seuss speaker strange universe vice who world""")
)
# Common family names; of one character.
CHINESE_FAMILY = (
    "王李张刘陈杨黄赵吴周徐孙马朱胡郭何高林罗郑梁谢宋唐许韩冯邓曹彭曾肖萧田董袁潘于蒋蔡余杜叶程苏魏吕丁任沈姚卢姜"
    "崔钟谭陆汪范金石廖贾夏韦付傅方白邹孟熊秦邱江尹薛闫阎段雷侯龙史陶黎贺顾毛郝龚邵万钱严覃武戴莫孔汤常温康施文牛"
    "樊葛邢安齐易乔伍庞颜倪庄聂章鲁岳翟殷詹申欧耿关兰焦俞左柳甘祝包宁尚符舒阮柯纪梅童凌毕单季裴霍涂苗谷盛曲翁冉骆"
    "蓝路游辛靳管柴蒙鲍华喻祁蒲房滕屈饶牟艾尤穆缪芦褚娄窦戚岑晏瞿栾隋佟臧張劉陳楊黃趙吳孫馬鄭謝許韓馮鄧蕭葉蘇呂盧"
    "鍾譚陸賈鄒閻顧龔萬錢嚴湯龐顏莊聶魯關蘭單紀駱藍羅蔣寧齊喬"
)
# Family names that are words more often: names where nothing but a name stands.
RARE_CHINESE_FAMILY = "向时成解阳农司卓古吉简车项连麦景党宫费卜冷席卫米柏宗桂全应边师商沙荣和明池查容云信元海"
CHINESE_COMPOUND = _words(
    "欧阳 司马 诸葛 上官 东方 皇甫 尉迟 公孙 慕容 令狐 夏侯 司徒 长孙 宇文 独孤 南宫 端木 轩辕 闻人 澹台 淳于 赫连 "
    "申屠 太史 歐陽 司馬 諸葛 東方"
)
# Words that begin as a name does; what begins with one is none.
NO_CHINESE_NAME = frozenset(
    _words("""
    王国 王子 王朝 王室 王后 王牌 王者 王府 张开 张口 张贴 张家口 刘海 陈述 陈列 陈旧 杨树 杨柳 黄金 黄色 黄河 黄瓜
    黄昏 黄埔 黄浦 黄山 赵国 周末 周围 周期 周边 周年 周日 周一 周二 周三 周四 周五 周六 孙子 孙女 马上 马路 马桶
    马车 马虎 马力 马拉松 马克思 马来 马鞍 朱砂 朱红 胡同 胡须 胡子 胡说 胡乱 胡椒 胡萝卜 何时 何必 何况 何处 何人
    何种 何以 何等 何地 高中 高级 高等 高考 高校 高度 高兴 高速 高大 高层 高温 高手 高新 高铁 高峰 高端 高档 高管
    高效 高达 高于 高原 高山 高质 高血 高价 高薪 林业 林木 林区 林地 罗列 罗马 罗汉 郑重 郑州 梁山 谢谢 谢绝 谢意
    宋代 宋朝 唐代 唐朝 唐诗 唐山 许多 许可 许诺 许愿 许久 许昌 韩国 韩语 韩式 曹操 曾经 曾任 曾在 曾被 曾有 曾是
    田野 田径 田园 田间 董事 于是 于此 于今 余下 余额 余地 余热 余人 余年 杜绝 叶子 叶片 程序 程度 程式 苏州 苏联
    苏打 苏格兰 任何 任务 任命 任意 任职 任教 任期 任由 任劳 任凭 沈阳 沈重 姜汤 钟头 钟表 钟点 钟爱 陆续 陆地 陆军
    汪洋大 范围 范畴 范例 范文 金额 金融 金属 金牌 金色 金钱 金山 金沙 金蝶 金银 金星 石头 石油 石化 石家庄 石材
    夏天 夏季 夏日 夏令 付款 付费 付出 方法 方面 方便 方式 方案 方向 方程 方形 方言 方可 方才 方针 方圆 白天 白色
    白云 白酒 白领 白衣 白菜 白银 白糖 白宫 白板 白白 孟子 熊猫 秦朝 秦国 江苏 江西 江南 江北 江河 江湖 江山 江水
    江城 江阴 江宁 段落 段时 段子 雷达 雷电 雷锋 雷雨 侯爵 龙头 龙虾 龙年 史上 史料 史诗 史学 陶瓷 陶器 陶醉 黎明前
    贺卡 贺词 贺岁 顾客 顾问 顾虑 顾及 毛巾 毛病 毛笔 毛衣 毛主席 毛利 毛坯 万一 万元 万分 万能 万科 万达 万人 万物
    万岁 万事 万里 万亿 钱包 钱币 钱财 严格 严重 严肃 严厉 严禁 严谨 严密 武汉 武器 武术 武装 武警 戴上 戴着 莫名
    莫非 莫过 莫大 孔子 孔雀 孔径 汤圆 汤药 常常 常见 常规 常用 常年 常务 常州 常委 常说 常熟 常识 常驻 常任 常住
    常德 温度 温州 温柔 温暖 温和 温泉 温馨 温水 康复 康师 施工 施行 施肥 施加 文件 文化 文章 文学 文字 文明 文本
    文艺 文科 文具 文员 文物 文凭 牛奶 牛肉 牛仔 牛年 葛根 安全 安装 安排 安静 安心 安徽 安置 安慰 安稳 安定 安保
    安检 安阳 安康 齐全 齐心 易于 易懂 乔木 庞大 颜色 颜值 庄严 庄园 庄稼 庄子 章程 章节 鲁迅 岳父 岳母 岳阳 申请
    申报 申诉 申明 申办 欧洲 欧美 欧元 欧盟 欧式 关于 关系 关心 关键 关注 关闭 关怀 关联 关爱 兰州 兰花 焦点 焦急
    焦虑 左右 左边 左侧 左手 柳州 柳树 甘肃 甘蔗 祝贺 祝福 祝愿 祝您 祝你 祝好 祝大 包括 包含 包装 包裹 包子 包邮
    宁波 宁夏 宁静 宁愿 尚未 尚且 尚无 尚有 符合 符号 舒服 舒适 舒畅 纪念 纪律 纪录 纪委 梅花 梅雨 童年 童话 童装
    童鞋 凌晨 毕业 毕竟 单位 单独 单纯 单身 单元 单价 单词 单亲 季节 季度 苗条 苗木 谷物 谷歌 盛大 盛行 曲线 曲折
    蓝色 蓝天 路上 路口 路线 路过 路由 路径 路边 游戏 游客 游泳 游览 辛苦 辛勤 管理 管道 管委 管家 柴油 柴火 蒙古
    蒙面 华人 华东 华南 华北 华夏 华丽 华侨 华为 房产 房间 房屋 房东 房子 房价 房租 艾滋 尤其 穆斯林 隋朝 王老吉
    王府井 李宁 李白 杜甫 白居易 周总理 周恩来 袁世凯 周大福 张小泉 向您 向你 向他 向上 时间 时候 时代 时期 成为
    成功 成员 成绩 成立 成本 成都 解决 解释 解放 阳光 阳台 农业 农村 农民 司机 司法 卓越 古代 古老 吉林 吉祥 简单
    简直 简历 车间 车辆 车站 项目 连接 连续 景区 景色 党员 党委 费用 冷静 冷水 席位 卫生 卫星 宗教 桂林 桂花 全部
    全体 全国 全科 全家 全校 应该 应当 应届 应用 边缘 师傅 师生 商店 商品 商家 商业 沙发 荣誉 荣获 和平 明天 明年
    明显 明白 明星 明确 查看 查询 容易 云南 信息 信用 信任 元素 海外 海关 海南 老师 邮箱 地址 电话 性别 年龄 部门
    职务 职业 手机 日期 备注 必填 不详 未知 保密 匿名 同上 空白 无名 本人 如下 见下 见附件 另行 待定 暂无 请填 盖章
    客服 前台 公司 集团 先生 女士 小姐 同学 同志 经理 小心 小时 小孩 高一 高二 高三""")
)
# Words that end in a family name, before a title.
BEFORE_TITLE = frozenset(
    _words("""
    任何 如何 为何 几何 对方 双方 各方 甲方 乙方 我方 警方 院方 校方 官方 地方 多方 厂方 女方 男方 前方 语文 英文
    中文 作文 外文 历史 音乐 最高 提高 初高 身高 感谢 多谢 答谢 致谢 由于 关于 对于 属于 位于 处于 至于 终于 等于
    善于 基于 明白 表白 告白 空白 现金 奖金 黄金 资金 基金 租金 五金 早安 晚安 公安 治安 保安 西安 平安 长安 华安
    通常 非常 经常 正常 日常 平常 时常 照常 异常 简易 容易 贸易 交易 不易 主管 总管 高管 保管 城管 网管 托管 尽管
    不管 接管 书包 面包 钱包 红包 承包 外包 简单 名单 菜单 订单 账单 中华 才华 豪华 繁华 精华 楼房 厨房 客房 病房
    药房 住房 新房 买房 书房 道路 公路 铁路 马路 网路 思路 一路 导游 旅游 上游 下游 手游 网游 高温 体温 健康 小康
    实施 措施 设施 一千万 百万 千万 机关 海关 相关 有关 无关 公关 四季 初夏 华夏 长江 珠江 浙江 黑龙江 镇江 九江
    恐龙 文章 印章 盖章 勋章 报纪 世纪 年纪 经纪 不曾 未曾 安宁 南宁 辽宁 西宁 时尚 高尚 和尚 村庄 一段 阶段 手段
    片段 地段 岩石 钻石 宝石 化石 时钟 分钟 闹钟 大陆 登陆 着陆 内陆 规范 示范 师范 模范 防范 典范 交付 支付 应付
    对付 担任 责任 信任 主任 前任 现任 历任 班主任 课程 工程 过程 流程 教程 日程 全程 多余 其余 业余 剩余 森林 园林
    吉林 桂林 跳高 登高 羽毛 皮毛 眉毛 国史 校史 孩童 儿童 学童""")
)
CHINESE_FUNCTION = (
    "的了是在和与或及等们这那个有不也都就要会能可被把从到向对吗呢吧啊你我他她它您谁么什某各每该此其而且但所以因则"
    "即将请让给跟比很太更最下姐哥爷妈爸叔姨"
)
# Letters of surrogates. English: the first and the second part of a name that may be a given or a family name.
FIRST_PARTS = _words(
    "Ash Al Bar Brad Brook Bur Cal Car Clay Clif Cor Dal Day Del Dray Ed El Em Fair Far Fen Gar Glen Gray Hal Har Hart "
    "Hol Hunt Iver Kel Ken King Lang Lin Lock Lyn Mar Mel Mer Mor Nor Oak Pem Pres Quin Ran Red Rock Rother Rush Sel "
    "Shel Stan Sten Stock Thorn Til Wake Wal War West Whit Win"
)
SECOND_PARTS = _words(
    "aby ace ard berry bourne bridge brook burn bury by cliffe combe cote cott den dale don ell ender ers ett ey "
    "field ford gate grave grove ham hurst ingham ington land leigh ley lock low lyn man mere mont more ner ness ridge "
    "rose sby shaw son stead stone ston ter thorpe ton vale ville wald ward way well wick wood worth wyn yard"
)
CHINESE_GIVEN_CHARACTERS = (
    "安宁文清云林子亦知远思言若行之景和书雨晨星禾木川岳青白一可以小晓新予乐然同嘉佳学瑞辰宇泽润溪墨谦恒诚信方圆舟岸桐柏"
)
FOREIGN_CHARACTERS = "巴多里亚尔斯克拉诺维特曼西德罗贝塔米伦娜洛戈科萨卡莱琳托"
