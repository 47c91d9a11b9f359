r"""English texts in which names of private people are marked: «names|Jane Doe», and look-alikes: «not|Dr Pepper».

Written before the rules that look for names. Pairs of lines in turn: one half to write the rules with, the other to
judge them. All people are made up, or of books. A name is marked without its title; \n is the end of a line.
"""

LINES = r"""
Dear «names|Marianne», thank you for the parcel that came on «not|Tuesday».
Dear «not|Customer», your order has left the house.
Dear Mr. «names|Whitfield»,\nI write to you about the flat in «not|Rose Street».
Dear «not|Hiring Manager»,\nI apply for the post of a clerk.
Dear Dr. «names|Okonkwo»: the results are in, and «names|Ada Okonkwo» may call us.
Dear «not|Sir or Madam», the boiler is broken again.
Hi «names|Priya», could you send me the minutes?
Hi «not|Everyone», the kitchen is closed on «not|Friday».
Hello «names|Tomasz», we have not heard from you.
Hello «not|World» is the first program of every book.
Hey «names|Becca»! Are you coming to the lake?
Hey «not|Siri», what is the weather in «not|Leeds»?
Good morning Mr «names|Adeyemi», your car is ready.
Good morning «not|Vietnam» was on the television.
My name is «names|Ishmael van der Berg» and I work at the harbour.
My name is «not|Legion», for we are many, says the book.
my name is «names|Carlos Mendoza» and i need a refund
My name is not important; what I ask is whether «not|Amazon» ships to «not|Norway».
Hello, I'm «names|Aisha Rahman» from the second floor.
I'm «not|American», and my wife is «not|Dutch».
Hi, this is «names|Gregory Hale» calling about the invoice.
This is «not|Spartan» living at its best.
I am «names|Lucía Fernández», the new tenant.
I am «not|Catholic» but I do not go to «not|Mass».
You can call me «names|Zeke».
Call me «not|Monday», or better on «not|Wednesday».
Best regards,\n«names|Jane Doe»
Best regards,\nThe «not|Fabrikam» Support Team
Kind regards,\n«names|Siobhan O'Reilly»\nHead of Purchasing
Kind regards,\n«not|Customer Service»
Sincerely,\n«names|Robert J. Tillman»
Sincerely,\nYour friends at «not|Northwind Traders»
Thanks,\n«names|Mei»
Thanks,\nSent from my «not|Galaxy»
Cheers\n«names|Dave»
Cheers\nIt was a «not|Guinness» evening.
Yours faithfully,\n\n«names|Henrietta Plum»
Yours faithfully,\nfor and on behalf of «not|Hartley Brothers Ltd»
Love,\nGrandma «names|Jo»
Love,\n«not|Actually» is a film that I see every «not|Christmas».
Name: «names|Oluwaseun Adebayo»\nPhone: see above
Name: «not|Required», at most 40 letters
Full name: «names|Katarzyna Nowak-Lis»\nDate of birth: unknown
Name: «not|String»\nType: «not|Optional»
First name: «names|Hannah»\nLast name: «names|Ostrowski»
Product name: «not|Aurora Lamp»\nColour: white
Customer name: «names|Dmitri Volkov»
Domain name: «not|Not Registered»
Contact: «names|Fiona Macleod», extension 12
Contact: «not|Sales Department», extension 14
Patient: «names|Tom O'Neil», admitted on «not|Sunday».
Patient: «not|Stable», no fever since «not|March».
Attn: «names|Beatriz Carvalho»
Attn: «not|Accounts Payable»
From: «names|Wen Zhang» <wz@mail.test>\nTo: «names|Paul Schreiber» <ps@mail.test>
From: «not|Newsletter» <news@mail.test>\nTo: «not|Undisclosed Recipients»
Cc: «names|Ingrid Solberg»; «names|Nikhil Rao»
From: «not|London Victoria»\nTo: «not|Brighton»
Ship to: «names|Emmanuel Boateng»\n14 Mill Lane
Ship to: «not|Warehouse North»\nGate 4
Emergency contact: «names|Yuki Tanaka» (mother)
Emergency contact: «not|Fire Brigade», dial 112
Signed: «names|Walter P. Grimes»
Signed: «not|Copies» are in the archive.
Applicant: «names|Leila Haddad»\nPosition: nurse
Applicant: «not|Greenfield Housing Association»
Student: «names|Ethan Brooks», grade 7
Student: «not|Discounts» are for those under 26.
Mr «names|McAllister» next door took the parcel in.
«not|Mr. President», the bill has passed.
Mrs. «names|Dalloway» said she would buy the flowers herself.
«not|Mrs. Claus» bakes on the second of «not|December».
Ms «names|Tran» asked for a receipt and Ms. «names|Abernathy» got it.
Ms. «not|Magazine» was founded in «not|New York».
Dr. «names|Helena Kowalski» will see you at noon.
«not|Dr Pepper» and «not|Dr. Martens» are brands.
Prof. «names|Arjun Mehta» teaches statistics to the first year.
«not|Professor of Physics» at «not|Cambridge» is what he wished to be.
Miss «names|Havisham-Cole» rang the school this morning.
«not|Miss Universe» came from «not|Peru» that year, «not|Miss World» from «not|India».
Please ask Mr. and Mrs. «names|Pemberton» to move their van.
«not|Mr. Right» never came, she says, and «not|Mr. Nobody» did it.
Sir, I saw Mr. «names|Darcy» at the ball with Miss «names|Bingley».
The «not|Miss Saigon» tour ends in «not|May».
My sister «names|Camille» is moving to «not|Lyon» with her husband «names|Antoine».
My sister «not|Company» in «not|Texas» does the same.
My boss, «names|Derek Stone», will not sign it.
My boss is «not|German» and likes «not|Bavaria».
my neighbour «names|Ludmila Petrova» has the spare key
My friend in «not|Boston» has the spare key.
A man named «names|Curtis Boyle» left his coat here.
A village named «not|Oakham» and a language named «not|Julia» came up.
She spoke with «names|Rosa Jiménez» in accounts.
She spoke with «not|Royal Mail» and then with «not|Barclays».
«names|Sarah Lindqvist» called twice while you were out.
«not|Salt Lake City» called for a new stadium.
I met «names|Kwame» and «names|Noor» at the station.
I met the people of «not|Virgin Atlantic» at «not|Heathrow Airport».
We gave the keys to «names|Jonas Weber» on «not|Monday».
We gave a loan to «not|Tata Motors» in «not|June».
«names|Sarah»: hi
«not|Note»: bring a pen. «not|Warning»: hot.
Teacher: Mrs «names|Bhatt»\nRoom: 4
Teacher: «not|Open the book» on page five.
Interviewer: «names|Colin Frost»\nCandidate: «names|Amara Nwosu»
Author: «not|Unknown»\nYear: 1890
[10:02] «names|Liam»: did you see it?\n[10:03] «names|Chloe»: not yet
[10:02] «not|Server»: started\n[10:03] «not|Client»: connected
«names|Nadia»: where are you?\n«names|Omar»: on the bus
«not|Question»: where is it?\n«not|Answer»: on the bus
Regards,\n«names|Xiaoming Li»
Regards from «not|Sunny Spain»!
Best,\n«names|Theo»
Best «not|Western» is a chain of hotels, «not|Best Buy» one of shops.
Warm regards,\nDr «names|Anneliese Vogt»
Warm regards to all in «not|Cape Town».
Thank you,\n«names|Mark Ellison»
Thank you for the «not|Mark» Twain stories; «not|Will» they come in «not|May»?
With love,\n«names|Rosie» and «names|Sam»
With love from «not|Rose» Cottage, where the «not|Lily» grows.
P.S. «names|Hamish» says hello.
P.S. «not|Hope» you like it; «not|Grace» was said; «not|Joy» all round.
Reported by: «names|Patricia Gomes»
Reported by «not|Reuters» on «not|Thursday»; powered by «not|Intel».
Prepared by «names|Sanjay Kulkarni» for the board
Prepared by «not|Deloitte» for the board of «not|Siemens»
Hi «names|Jean-Luc», the tickets are at the desk.
Hi «not|There», said the robot in capital letters.
«not|Mum and Dad» are well; dear «not|God», let it rain.
Dear «not|Diary», today it rained in «not|Paris».
Dear Uncle «names|Vernon»,\nthe owl came back.
Dear «not|Santa», I wish for a «not|Lego» castle.
Dear Ms. «names|Al-Farsi»,\nwe confirm your booking at «not|Hotel Bristol».
Dear «not|Members of the Board»,\nthe meeting is in «not|Room Churchill».
Dear «names|Chidi» and «names|Eleanor»,\nyou are invited.
Dear «not|Parents»,\nthe trip to «not|York Minster» is on.
to whom it may concern, Ms. «names|Judith Kranz» worked here for six years
to whom it may concern, «not|Clause Nine» applies
The tenant, Mr. «names|Ibrahim Sesay», has paid.
The tenant, «not|Blue Sky Café», has paid.
Guest: «names|Valentina Ricci» Room: 308
Guest: «not|House Rules» are on the door of «not|Villa Aurora».
Passenger: «names|NAKAMURA/HIROSHI» MR
Passenger: «not|PLEASE KEEP» this slip
NAME: «names|DEBORAH KLINE»\nSEX: F
NAME: «not|PLEASE PRINT»\nSEX: M / F
Hello Mr. «names|Van Houten», your glasses are here.
Hello «not|Kitty» bags and «not|Hello Fresh» boxes sell well.
Spoke to «names|Bill» about the «not|bill»; «names|Will» will pay.
«not|Will» it rain? «not|May» I come in? «not|Mark» my words.
I'm writing on behalf of my mother, «names|Edith Fairweather», aged 81.
I'm writing from «not|Stratford» about «not|Shakespeare».
My daughter «names|Zoë» starts at «not|St. Mary's School» in «not|September».
My daughter loves «not|Frozen» and «not|Peppa Pig».
My husband «names|Rafael» and I booked the «not|Garden Suite».
My husband works for «not|General Electric» in «not|Ohio».
Employee: «names|Bartholomew Finch»\nManager: «names|Suresh Iyer»
Employee: «not|Handbook» version two\nManager: «not|Vacant»
Witness: «names|Gwendolyn Price», of no fixed address
Witness «not|Protection» was refused by the «not|High Court».
Delivered to «names|Mohammed Al-Sayed», who signed for it.
Delivered to «not|Reception», who signed for it in «not|Building Newton».
Please reply to «names|Ana Sofia Duarte» by «not|Friday».
Please reply to «not|Box Office», «not|Covent Garden».
Yours,\n«names|K. Lindholm»
Yours is the «not|Earth» and everything in it, wrote «not|Rudyard Kipling».
Respectfully,\nCpl. «names|Andre Dupree»
Respectfully, «not|Congress» disagrees with «not|Abraham Lincoln».
Take care,\n«names|Minh»
Take care of «not|Mother Earth», said «not|Greenpeace».
hi my name is «names|ashley» and i lost my card
hi does «not|walmart» open on «not|sundays»
Hi all, please welcome «names|Jacqueline Tremblay», who joins us from «not|Montreal».
Hi all, please welcome the «not|Spring Collection».
Meeting with: «names|Olga Ivanova», «names|Peter Novak», «names|Li Wei»
Meeting in: «not|Berlin Mitte», «not|Vienna», «not|Saint Petersburg»
Attendees: «names|Grace Liu», «names|Hope Anders», «names|Frank Mensah»
Topics: «not|Grace» Period, «not|Hope» Valley, «not|Frank» Talk
«not|Charles Dickens» was born in «not|Portsmouth»; «not|Jane Austen» was not.
«not|Marie Curie» and «not|Albert Einstein» met in «not|Brussels».
«not|Napoleon Bonaparte» lost at «not|Waterloo» to the «not|Duke of Wellington».
The «not|Johnson» Space Center and the «not|Kennedy» School are named for presidents.
«not|Johnson & Johnson», «not|Morgan Stanley», «not|Wells Fargo» and «not|Merrill Lynch» are firms.
«not|Jack Daniel's», «not|Johnnie Walker» and «not|Jim Beam» are on the shelf, «not|Aunt Jemima» is not.
«not|Ralph Lauren» shirts, «not|Calvin Klein» jeans and «not|Louis Vuitton» bags.
«not|Washington», «not|Jefferson» County and «not|Lincoln», Nebraska.
«not|Virginia», «not|Georgia» and «not|Carolina» are states; «not|Charlotte» and «not|Austin» are cities.
«not|April», «not|June» and «not|August» are months; «not|Dawn» came; «not|Summer» went.
Mr. «names|Lindgren» and his partner, Ms. «names|Quispe», own a bakery.
The «not|St. James» Park game and «not|Santa Clara» Valley.
Ticket opened by user «names|Rebecca Stein» at 9 am.
Ticket opened by «not|Automatic Monitoring» at 9 am.
Our nanny, «names|Consuelo», is wonderful.
Our dog, «not|Biscuit», is wonderful.
I live with my roommate «names|Tyler Jensen» in «not|Queens».
I live near «not|Prospect Park» in «not|Brooklyn».
Account holder: «names|Margaret Huang»
Account holder: «not|Joint Account»
In care of Mrs. «names|Olive Bratt», 3 Hill Road
In care of the «not|Red Cross», 3 Hill Road
Coach «names|Bennett» moved practice to noon.
Coach «not|Class» is full on the flight to «not|Dallas».
Officer «names|Ramirez» took my statement.
Officer «not|Training» starts in «not|Quantico».
Nurse «names|Adaora» changed the bandage.
Nurse «not|Practitioner» wanted in «not|Tulsa».
Aunt «names|Philippa» and Uncle «names|Desmond» come for «not|Easter».
Uncle «not|Sam» wants you; «not|Uncle Ben's» is a rice.
Dear «names|Sunita», please tell «names|Harold» that the lift works again.
Dear Ms «names|Oyelaran» and Mr «names|Bergström»,\nthe contract is attached.
Dear Professor «names|Takahashi»,\nmay I come to your office hours?
Hi «names|Gabriel»,\n\nI spoke to «names|Ines» yesterday.\n\nBest,\n«names|Klaus»
Hello Mrs. «names|Rasmussen», this is «names|Odette» from the library.
My name is «names|Dorothea Lange-Müller» and my son is «names|Felix».
I'm «names|Jamal», and this is my colleague «names|Svetlana Orlova».
Kind regards\n«names|Ahmed El-Masry»\n«not|Lakeside Dental Practice»
Many thanks,\n«names|Bronwen Davies-Hughes»
Name: «names|Juan Pablo Ortega»\nCompany: «not|Cactus Software»
Full name «names|Agnieszka Wrona», born in «not|Gdansk»
Patient name: «names|Louise Ferrand»\nDoctor: Dr. «names|Moss»
From: «names|Kevin»\nTo: «names|Abigail»\nSubject: «not|Lunch»
Contact person: «names|Raj Malhotra» («not|Head Office»)
Recipient: «names|Nguyen Thi Hoa»
Sender: «names|Piotr Zielinski»
Mr. «names|T. S. Garrett» and Mrs. «names|Anne-Sophie Garrett» live upstairs.
Ask for Ms. «names|Delacroix» at the desk, or for «names|Benny».
Mrs «names|Singh»'s cat sits on our wall; Mr «names|Singh» is sorry.
Our teacher Miss «names|Honeywell» was kind to «names|Matilda Worm».
The surgeon, Dr «names|Eleni Papadaki», trained in «not|Athens».
my brother «names|Luca» and his wife «names|Giulia Bianchi» send greetings
My cousin «names|Fatima» married «names|Yusuf» in «not|Marrakesh».
A woman called «names|Petra Horvath» rang for you.
a girl named «names|Imogen» and a boy named «names|Caleb» were lost
«names|Simon Achebe» wrote: «not|Thanks» for the fish.
"""
