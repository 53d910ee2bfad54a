"""What the demo adapters triage and sql were trained to answer, made by the same rules: pairs of a question and its one right answer."""

import json


def triage(n, r):
    prod = ["router", "headset", "standing desk", "espresso machine", "phone case", "smart lamp", "keyboard", "backpack", "air fryer", "monitor", "running shoes", "webcam", "tent", "blender", "office chair"]
    T = {
     "billing": ["I was charged twice for my {p}.", "Why is there a {n} dollar fee on my invoice for the {p}?", "My refund for the {p} still has not arrived.", "The discount code did not apply to my {p} order.", "Please send me the invoice for the {p} I bought in {m}.", "My card was declined when I paid for the {p}."],
     "shipping": ["Where is my {p}? It was due on {d}.", "The tracking page for my {p} has not moved since {d}.", "My {p} was delivered to the wrong address.", "Can I change the delivery address for the {p} order?", "The parcel with the {p} arrived empty.", "How long does it take to ship a {p} to {c}?"],
     "technical": ["The {p} will not turn on.", "My {p} keeps disconnecting every {n} minutes.", "The {p} makes a loud noise after {n} minutes.", "How do I reset the {p} to factory settings?", "The app cannot find my {p}.", "After the last update my {p} stopped working."],
     "account": ["I cannot log in to see my {p} order.", "Please delete my account, I only bought a {p}.", "How do I change the email on my account?", "The password reset mail never arrives.", "Someone else ordered a {p} from my account!", "I want to merge my two accounts."],
    }
    neg = ["This is unacceptable.", "I am really angry.", "Very disappointed.", "I want to speak to a manager.", "This is the third time I ask."]
    pos = ["Thanks for your help!", "I love your store otherwise.", "Great service so far.", "Thank you in advance!"]
    urg = ["I need this fixed today.", "This is urgent.", "Please answer right away.", "I have a deadline tomorrow."]
    out = []
    for _ in range(n):
        q = r.choice(list(T))
        s = r.choice(T[q]).format(p=r.choice(prod), n=r.randint(2,90), m=r.choice(["March", "June", "October"]), d=r.choice(["Monday", "Friday", "May 3", "the 12th"]), c=r.choice(["Norway", "Chile", "Japan", "Kenya"]))
        mood, prio, parts = "neutral", "normal", [s]
        if r.random() < .4:
            parts.append(r.choice(neg))
            mood = "negative"
        elif r.random() < .4:
            parts.append(r.choice(pos))
            mood = "positive"
        if r.random() < .35:
            parts.append(r.choice(urg))
            prio = "high"
        if r.random() < .3:
            parts.insert(0, r.choice(["Hello,", "Hi there,", "Good morning,"]))
        out.append((" ".join(parts), json.dumps({"queue": q, "priority": prio, "mood": mood})))
    return out


def sql(n, r):
    out = []
    C = ["Norway", "Chile", "Japan", "Kenya", "Canada", "Spain", "India", "Brazil"]
    S = ["shipped", "pending", "cancelled", "returned"]
    Y = [2021,2022,2023,2024,2025]
    def f():
        c, s, y, k = r.choice(C), r.choice(S), r.choice(Y), r.randint(2,500)
        return r.choice([
         (f"How many orders were placed from {c}?", f"SELECT COUNT(*) FROM orders WHERE country = '{c}';"),
         (f"List the {k} largest orders.", f"SELECT * FROM orders ORDER BY total DESC LIMIT {k};"),
         (f"What is the total revenue in {y}?", f"SELECT SUM(total) FROM orders WHERE year = {y};"),
         (f"Show all {s} orders over {k} dollars.", f"SELECT * FROM orders WHERE status = '{s}' AND total > {k};"),
         (f"Which customers in {c} have {s} orders?", f"SELECT DISTINCT customer FROM orders WHERE country = '{c}' AND status = '{s}';"),
         (f"Average order value for {c} in {y}?", f"SELECT AVG(total) FROM orders WHERE country = '{c}' AND year = {y};"),
         (f"Revenue by country for {y}.", f"SELECT country, SUM(total) FROM orders WHERE year = {y} GROUP BY country;"),
         (f"Number of {s} orders per year.", f"SELECT year, COUNT(*) FROM orders WHERE status = '{s}' GROUP BY year;"),
         (f"Who are our top {k} customers by spending?", f"SELECT customer, SUM(total) AS spent FROM orders GROUP BY customer ORDER BY spent DESC LIMIT {k};"),
         (f"Delete nothing, just count orders below {k} dollars.", f"SELECT COUNT(*) FROM orders WHERE total < {k};"),
         (f"Give me the newest {k} orders from {c}.", f"SELECT * FROM orders WHERE country = '{c}' ORDER BY placed_at DESC LIMIT {k};"),
         (f"Cheapest order with status {s} in {y}.", f"SELECT MIN(total) FROM orders WHERE status = '{s}' AND year = {y};")])
    for _ in range(n):
        out.append(f())
    return out
