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
MARK = re.compile(r"«(\w+)\|([^»]+?)(:?)»")


def labelled(lines: str = PERSONAL + LOOK_ALIKES) -> list[tuple[str, list[Span]]]:
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
