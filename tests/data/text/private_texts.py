"""A labelled set of texts in both languages: «kind|value» marks personal data; all else only looks like it.

Card numbers are the test numbers that payment providers publish, identity numbers and telephone numbers are made up
with right check digits, addresses are of ranges that anyone may read about.
"""

from __future__ import annotations

import re

from pipelines.data.text.privacy import Span

PERSONAL = """
Please write to «email|ann.lee@mailbox.org», or call «phone|+44 20 7946 0958» before noon.
My new address is «email|j_r.o'neil+news@uni-mainz.de»; the old one is gone.
Contact: «email|Support@Shop-24.co.uk».
He signed as <«email|b.k@a.io»> and never came back.
Forwarded by "Li Na" «email|lina88@163.com» on Monday.
Tel. «phone|(415) 555-2671», fax «phone|415-555-2672».
Call me at «phone|1-415-555-2671» or «phone|415.555.2673» any time.
My mobile is «phone|+1 212 736 5000», the office is «phone|+49 30 901820».
Ring «phone|+33 6 12 34 56 78» or «phone|+86 138 1234 5678».
London office: «phone|020 7946 0018».
The attack came from «ip|81.2.69.142» and from «ip|203.98.7.65:»8080.
Logged in from «ip|2a02:8109:9a40:18c4::5» at noon.
Paid with «card|4111 1111 1111 1111», expires 04/29.
Card «card|5555555555554444» was declined.
Her Amex is «card|3782 822463 10005» and it works.
UnionPay: «card|6200 0000 0000 0005».
Card no «card|4012-8888-8888-1881», holder J. Smith.
His SSN is «id_number|219-09-9999», as the form says.
Passport number «passport|GA302922», issued in Bern.
My passport: «passport|533380006».
She lost her passport No. «passport|L898902C»
请发邮件到«email|wang.fang@qq.com»，或者打«phone|13812345678»。
我的手机号是«phone|138-1234-5678»，微信同号。
联系电话：«phone|159 8765 4321»，晚上九点以前。
办公室电话«phone|010-62751234»，分机三。
上海的朋友请拨«phone|021-54742345»或«phone|+86 13900001111»。
座机：«phone|0755-86013388»，找李先生。
身份证号«id_number|11010519491231002X»，请核对。
他的身份证是«id_number|440524188001010014»。
住户身份证：«id_number|53010219200508011x»。
银行卡号«card|6222 0210 0011 2230»，户名王芳。
请汇到«card|6225881234567898»这张卡上。
护照号码：«passport|E12345678»，有效期十年。
我的护照是«passport|G87654321»，签发地北京。
護照號碼 «passport|EA1234567»
服务器的地址是«ip|114.212.80.15»，端口二十二。
有人从«ip|59.66.1.137»登录了我的账号。
邮箱«email|zhao_lei@tsinghua.edu.cn»已经不用了
请加«email|hr2024@bytedance.com»。电话是«phone|18600001234»。
订票请打«phone|17712345678»，谢谢！
Beijing office: «phone|+86 10 8888 9999», or «phone|+86-10-65529988» for the fax.
Shanghai: «phone|(86-21) 6279 8000», from abroad «phone|0086 21 62798001».
Text me on «phone|07911 123456»; the shop has «phone|01632 960001».
客服电话：«phone|02162798000»，周末休息。
手机«phone|１３８１２３４５６７８»，邮箱«email|ann＠mail.com»。
卡号«card|６２２２０２１０００１１２２３０»，身份证«id_number|１１０１０５１９４９１２３１００２Ｘ»。
Diners Club «card|3056 930902 5904» is accepted, «card|30569309025904» too.
"""
LOOK_ALIKES = """
Version 4.18.0.477 was followed by version 10.3.99.1 in May.
See section 3.1.2.4 and then 12.4.1.3 for the proof.
The local network is 192.168.1.254, the loopback 127.0.0.1, the mask 255.255.255.0.
Chrome/91.0.4472.124 Safari/537.36 sent the request.
ISBN 978-0-306-40615-7, ISSN 2049-3630, DOI 10.1000/182.
ISBN 9780306406157 is the second edition.
From 2019-03-14 to 2020-11-30, and again on 14.03.2021.
The years 1914-1918 and 1939-1945, pages 1234-1245.
Order number 4111111111111111 was shipped.
Tracking number: 13812345678, parcel of two.
Ticket #415-555-2671 is closed.
It took 1234567890 steps and 13812345678901 more.
π is 3.14159265358979, e is 2.718281828459045.
The population is 1,412,600,000, up from 1 370 537 000.
Card 4111 1111 1111 1112 has a wrong check digit.
The id 11010519491231002 is one digit short.
git clone git@github.com:example/repo.git and send @alice a note.
Write to user@example.com, as the manual says, or to admin@localhost.
The decorator @property, and a@b, and 5 @ 3.50 each.
At 12:30:45 the ratio was 16:9, at 23:59:59 it was 4:3.
std::vector and a::b are scopes, 2001:db8::1 is for documentation.
Serial number 6225881234567898 is on the back.
Row 12345678 of 87654321, offset 0x13812345678.
https://shop.org/item/13812345678?ref=4155552671
His passport expired in 2019, hers in 2023.
Coordinates 52.5200066, 13.4049540 and 40.7127753.
The score was 102-98, then 110-104-99.
Call 911, or 112 in Europe; text 10086.
timestamp 1700000000 and 1700000000000 in milliseconds
sha1 da39a3ee5e6b4b0d3255bfef95601890afd80709
版本号2.13.45.6已经发布，之前的版本1.9.200.4不再维护。
订单号13812345678已发货，请注意查收。
运单编号：6225881234567898。
QQ号1381234567，入群请注明。
书号978-7-02-000220-7，定价三十六元。
公元前221年到公元1912年，共2132年。
2024年03月14日15时09分26秒，误差0.00013812345678。
圆周率是3.14159265358979323846。
身份证号110105194912310021的校验位不对。
卡号6222021000112241的校验位也不对。
人口为1412600000人，比上年减少2080000人。
护照办理需要15个工作日，费用120元。
内网地址是10.0.0.8和172.16.254.1。
请拨打110或者12345，客服热线10086。
本书第3.1.2.4节和图1-2-3。
编号 20240314-0001-7788，档案盒12。
价格从1999-2999元不等，邮编100084。
"""
# Written before the patterns for full-width digits, bare landlines, British numbers of two groups and Diners cards.
APART = """
Reach the Guangzhou branch on «phone|+86 20 3810 5566» or «phone|+86 (20) 38105567».
Tel: «phone|+86-755-8601-3388»; fax: «phone|+86 755 86013389».
Dial «phone|0086-571-87654321» from outside the country.
Embassy: «phone|(86-10) 8531 3000», press «phone|(86-10) 85313001».
Factory in Dongguan, Tel «phone|86-769-22345678».
My UK mobile is «phone|07700 900123» and hers is «phone|07700900456».
The plumber: «phone|(01632) 960456», or mobile «phone|07975 556677».
Call the surgery on «phone|01224 587456» before ten.
London again: «phone|(020) 7946 0991» and «phone|02079460992».
Leeds: «phone|0113 496 0001», Cardiff «phone|029 2018 0123».
UK: «phone|+44 7911 123456», «phone|+44 (0)20 7946 0123».
Call Sean: «phone|212-555-0143», Dean: «phone|+44 20 7946 0958», my counterpart: «phone|+49 30 901820».
Jean «card|4111 1111 1111 1111», registrant's phone: «phone|+1.4806242599», «phone|+852.28765432».
Old Diners number «card|38520000023237» still works, so does «card|3852 000002 3237».
Paid by Diners, with hyphens: «card|3056-930902-5904».
北京总部«phone|01065529988»，传真«phone|010-65529989»。
杭州分公司电话«phone|057187654321»，联系人不在。
投诉请打«phone|（010）62751234»，转三号。
分机号在后面：«phone|010-62751234-803»。
成都«phone|028 8765 4321»，武汉«phone|(027)87654322»。
石家庄座机«phone|0311-87654321»，邯郸«phone|0310-3112345»。
值班电话«phone|03103112346»，请记下。
国外请拨«phone|＋８６　１０　６５５２　９９８８»。
我的号码：«phone|１５９－８７６５－４３２１»。
全角的座机«phone|０２１－５４７４２３４５»也要能认出来。
邮箱是«email|ｗａｎｇ＠１６３．ｃｏｍ»，请用半角输入。
来信请寄«email|li.na＠sina.com.cn»，谢谢。
银行卡«card|６２２５　８８１２　３４５６　７８９８»是他的。
证件«id_number|５３０１０２１９２００５０８０１１ｘ»已经核对。
香港办事处«phone|+852 2123 4567»，台北«phone|+886 2 2311 3731»。
The score was (86-21) at half time, 86-10 in the end.
Temperatures of +86 10 times in a row; +40 -20 in winter.
Between 2019-2020 and 2021-2022 it rose by 0.02162798000.
The barcode 036000291452 and the barcode 041220576463 are soup.
ISBN 0306406152, ISBN 0-306-40615-2, ISBN 978 0 306 40615 7.
Zero-padded: 00000012345, 00123456789, 0000000042.
Part number 01632 960001 fits model 07911 123456.
Price: 01.50 to 02.75, together 1,299.00 or 12 345 678.90.
On 03/14/2024 01:02:03 and on 2024-03-14T01:02:03.123456Z.
The log says 20240314150926 and 20240314-150926.
Diners 3056 930902 5905 has a wrong check digit.
Version 01.632.960001 and version 2.07911 and v07911.123456.
The constants 3.02162798000, 0.07911123456 and 6.02214076e23.
Hex 0x02162798000 and id a02162798000 and file_02162798000.
Rows 01632-01640, pages 0100-0199, rooms 010 to 020.
CAS 7732-18-5, EAN 4006381333931, GTIN 00012345600012.
Order no. 02162798000 left the house.
Coordinates +52.5200066 -013.4049540, bearing 016 32 96.
1 2 3 4 5 6 7 8 9 10 11 12, and 01 02 03 04 05 06 07.
Lottery: 07 11 23 34 45 56. Bonus: 0791 1123.
Census 1990 1991 1992 1993 and 0100 0200 0300 0400.
user＠localhost and １＠３ are no addresses.
SELECT 0133 AS a, 07911 + 123456 AS b
Matrix 010 101 110 0101 1010 and bits 01101001 10010110.
第０１２号文件，２０２４年３月１４日印发，共１２３４５６７份。
单价１２８０元，总价１２８０００００元，优惠价９９９元。
书号９７８７０２０００２２０７，ＩＳＢＮ　９７８－７－０２－０００２２０－７。
条形码041220576463，条码6901234567892。
订单号02162798000，运单号０１０６５５２９９８８。
比分为（86-21），第二节43-20，第三节021-015。
从１９９９－２００８年，又从2009－2019年。
版本２．１３．４５．６已经发布，编号０１０－２０２４－０００１。
卡号６２２２０２１０００１１２２４１的校验位不对。
圆周率３．１４１５９２６５３５８９７９３２３８４６。
期号2024031402，序列号00112233445。
坐标116.397128，39.916527；海拔0086米。
第010至021页，见图027 8765。
１、２、３、４、５、６、７、８、９、１０、１１。
人口1 412 600 000，面积9 600 000平方公里。
时间01:02:03，日期20240314，邮编010010。
"""
MARK = re.compile(r"«(\w+)\|([^»]+?)(:?)»")


def labelled(lines: str = PERSONAL + LOOK_ALIKES + APART) -> list[tuple[str, list[Span]]]:
    """(text, its personal data) of every line; a line's \\n is the end of a line of its text."""
    rows: list[tuple[str, list[Span]]] = []
    for line in (line.replace("\\n", "\n") for line in lines.strip().splitlines()):
        text, spans, position = "", [], 0
        for match in MARK.finditer(line):
            text += line[position : match.start()]
            spans.append(Span(match[1], len(text), len(text) + len(match[2])))  # pyright: ignore[reportArgumentType]
            text += match[2] + match[3]
            position = match.end()
        if line:
            rows.append((text + line[position:], spans))
    return rows
