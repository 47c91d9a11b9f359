"""Two labelled sets of postal addresses, in both languages: one to write the patterns with, one to measure them.

«address|value» marks what is to be found; all else may look like it. People and places are made up, or of books.
"""

DEVELOPMENT = """
Dear Ann, thank you for your letter.
Dear Sir, I write about the house.
Mr. J. Smith came in and sat down.
Name: Maria Garcia Lopez
Patient: Tom O'Neil, born in 1970.
My name is Ishmael van der Berg and I work here.
She lives at «address|12 Main Street, Springfield, IL 62704».
Send it to «address|221B Baker Street, London NW1 6XE».
Office: «address|1600 Oak Hill Avenue NW, Suite 200, Dayton, OH 45402»
姓名：王小明
联系人：李娜，电话见下。
请找张先生。
我叫陈思远，今年二十岁。
我住在«address|北京市海淀区中关村大街27号»。
请寄到«address|上海市黄浦区南京西路1025弄3号»。
地址：«address|广州市天河区体育东路108号2栋501室»
In 1990 Main Street was a quiet road.
The 5 Wall Street banks fell together.
Name: Required, at most 40 letters.
The name is taken from a river.
Dear Customer, your parcel is here.
铁路12号桥已经通车。
请坐10号线到终点站。
先生，请问现在几点？
王国里有三座城。
老师说明天放假。
Dear Mrs. Whitcombe,\\nyour appointment is on Monday.
Dear Oluwaseun: we have received your form.
Dear Hiring Manager, please find my letter enclosed.
Dear all, the meeting moves to ten.
Dr. Helena Kowalski will see you now.
Ms Tran asked for a receipt.
Prof. Arjun Mehta teaches statistics.
The parcel is for Mr McAllister next door.
Full name: Sofia Lindqvist
Customer name: Daniel Okafor; account closed.
Contact person: Elif Yilmaz
First name: Pierre, last name: Dubois
My name is Grace Hopkins, and this is my sister.
Yours sincerely,\\nRobert Fairchild
Best wishes,\\nLucía
Signed by Karen Holt on the third of May.
We moved to «address|48 Larch Lane, Norwich NR3 1AB» in March.
Address: «address|7301 W. Palmetto Park Road, Boca Raton, FL 33433»
Meet me at «address|350 Fifth Avenue, New York».
He was born at «address|9 Rose Terrace» and never left.
Deliver to: «address|15 St. Mary's Road, Apt 4B, Dublin»
«address|2200 Jefferson Blvd, Sacramento, CA 95691»
Her flat is on «address|77 Great Eastern Street, London EC2A 3HX».
Return to «address|630 E. 11th St., Austin, TX 78701-2234».
The office at «address|1 Infinite Way, Suite 12, Cupertino, CA 95014» is closed.
By 1980 Lake Shore Drive had eight lanes.
It sold 300 Park Avenue style coats.
Name: string, the column to read.
The variable name is Case Sensitive in some systems.
File name: report.txt
The 1969 Abbey Road album has seventeen songs.
They had 20 Big Square tables and 30 chairs.
Dr Pepper is a drink that he likes. 
Regards to the family, and see you soon.
Route 66 and Highway 61 are roads with songs.
Section 12 Right of Way is repealed.
Dear me, what a mess this is!
Page 3 Second Street, a novel in four parts
尊敬的刘建国先生：您好！
亲爱的周老师，感谢您的来信。
收件人：赵敏
患者：孙悦然，女，三十五岁。
户名：黄志强，开户行见附件。
联系人：欧阳娜娜
大家好，我叫林一鸣，来自成都。
他名叫郑和，是航海家。
请联系徐经理办理。
谢谢何医生救了我的母亲。
申请人：罗丹
吴美玲女士请到三号窗口。
我家住在«address|杭州市西湖区文三路398号»。
收货地址：«address|深圳市南山区科技园南路12号A座1203室»
公司位于«address|成都市锦江区春熙路88号»，欢迎光临。
新店开在«address|武汉市江汉区中山大道818号»，周日开业。
请把书寄到«address|南京市鼓楼区汉口路22号»。
地址：«address|天津市和平区南京路189号»
他们搬到«address|重庆市渝中区民权路27号3单元502室»了。
住址：«address|西安市碑林区友谊西路127号»
我在«address|苏州市平江路77号»等你。
«address|长沙市岳麓区麓山南路932号»是学校的地址。
公路3号隧道今天封闭。
坐地铁2号线，换27路公共汽车。
第十二号决议获得通过。
这条路1号出口在左边。
高速公路5号收费站排起了长队。
女士们，先生们，晚上好！
张经理这个称呼在公司里很常见吗？
何先生之有？
老师和同学们都来了。
林中有一位先生在散步。
名字叫什么并不重要。
我叫他明天再来。
姓名：必填，不超过十个字。
联系人：见附件。
黄河路过山西和陕西。
电路图上的8号零件坏了。
余教授以知识，不如教授以方法。
谢谢老师！
"""
# Written before the patterns in their last form were run on it, and not looked at while they were changed.
HELD_OUT = """
Dear Mr Abernathy,\nwe regret to tell you that the post is filled.
Dear Chloe and family, happy new year!
Dear Dr. Nwosu, the samples arrived today.
Dear Sir or Madam, I am writing to complain.
Dear Committee Members, the vote is on Friday.
Dear parents, school ends at noon.
Mrs. Dalloway said she would buy the flowers herself.
They asked Dr. Stephen Maturin to look at the wound.
Miss Havisham stopped all the clocks.
Mr President, members of the court, good morning.
Ms. Ana-Lucia Restrepo signed for the box.
Name: Jonas Eriksen\nAge: 41
Patient name: Fatima Zahra
Surname: O'Donnell
Attn: Priya Raman, Accounts
Client name: Tomasz Wójcik
Hello, my name is Oskar and I like trains.
Her name is Mei Ling, she is nine.
His name is not on the list.
My name is in the book.
Kind regards,\nHannah Weiss
Sincerely,\nDr. Who Fans
Cheers,\nBen
Signed by both parties in May.
Product name: Turbo Cleaner
User name: see the manual
Name: the name of the column.
Brand name: Acme
Host name: Apollo
Domain name: Example
Please bring it to «address|4410 Cedar Creek Drive, Plano, TX 75093» by six.
Ship to: «address|19 Kingsway, Cardiff CF10 3FD»
He grew up at «address|17 Cherry Tree Lane».
Our shop, «address|83 Rue Street, Halifax», is open.
The fire at «address|205 West 9th Street, Erie, PA» was out by noon.
I work at «address|30 St Andrew Square, Edinburgh EH2 2AD».
Mail: «address|1100 N. Lincoln Ave, Apt 3, Fargo, ND 58102»
From 1850 Broad Way was paved.
About 40 Drury Lane actors went on strike.
We saw 3 Blue Road signs.
Chapter 5 The Long Way home
In 1994 Circle Drive records closed.
姓名：蔡文静，性别：女
收件人：宋大海
联系人:邓丽
请转告曹女士，快递到了。
沈从周教授主讲，欢迎参加。
我叫姜山。
患者：董小燕，已出院。
郭同学，请上台领奖。
他向潘志远老师借了一本书。
她对崔大夫说了实话。
寄件人：司马青
尊敬的客户先生女士，您好。
尊敬的各位老师，大家好。
她和同学们一起走了。
我叫了一辆车。
请找个大夫来。
这位小姐，请留步。
陈年老酒，经理特价。
高等教育同学会今天成立。
王后和太太们在花园里。
对方经理没有来。
林业大学教授团队发表了论文。
地址：«address|郑州市金水区花园路59号院3号楼2单元»
我们约在«address|宁波市海曙区解放南路66号»见面。
她家在«address|昆明市五华区翠湖西路15号»，门口有棵树。
档案寄往«address|哈尔滨市南岗区西大直街92号»。
公司迁至«address|青岛市市南区香港中路10号»。
仓库在«address|无锡市滨湖区建筑西路599号»附近。
老店在«address|上海市静安区愚园路753弄15号»。
铁路2号桥和公路6号桥都修好了。
乘108路在三号门下车。
一路走来，第九号选手领先。
街上三号楼正在装修。
"""
