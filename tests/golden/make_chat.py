"""make_chat.py OUT.json: what Jinja, set up as transformers sets it up, makes of our templates.

`cases` are whole templates with their messages; `expressions` are one-line templates over the same variables. An "error" in place of
"want" says that rendering must fail. The templates are written for this file; each shows a construct that published ones use.

    pip install -r requirements.txt && python make_chat.py chat.json
"""
import json
import sys
from datetime import datetime

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: datetime.now().strftime(f)
    return env


TALK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi, \"you\" & <me>\n"}, {"role": "assistant", "content": " Hello! "},
        {"role": "user", "content": "Zürich 你好 👍"}]
SHORT = [{"role": "user", "content": "x"}]
CALLS = [{"role": "user", "content": "Weather?"},
         {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo", "days": 3, "units": None}}}]},
         {"role": "tool", "tool_call_id": "c1", "content": "{\"t\": -2.5}"},
         {"role": "assistant", "content": "<think>\ncold\n</think>\n\nIt is cold."}, {"role": "user", "content": "Thanks"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, {"type": "image", "url": "u"}, {"type": "text", "text": "And this?"}]}]
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Weather, now & later", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "description": "Name"}, "days": {"type": "integer", "enum": [1, 3, 7]}}, "required": ["city"]}}}]

CHATML = """{% for message in messages %}
{% if loop.first and message['role'] != 'system' %}
{{ '<|im_start|>system\\nYou help.<|im_end|>\\n' }}
{%- endif %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{%- endif %}"""

INST = """{{ bos_token }}{% if messages[0].role == 'system' %}{% set loop_messages = messages[1:] %}{% set system = messages[0].content %}{% else %}{% set loop_messages = messages %}{% set system = false %}{% endif %}
{%- for m in loop_messages -%}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception('Roles must alternate: ' ~ m.role) }}
    {%- endif -%}
    {%- if loop.index0 == 0 and system is not false -%}{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m.content %}{% else %}{% set content = m.content %}{% endif -%}
    {%- if m.role == 'user' -%}
        {{ '[INST] ' + content.strip() + ' [/INST]' }}
    {%- elif m.role == 'assistant' -%}
        {{ ' ' + content.strip() + ' ' + eos_token }}
    {%- else -%}
        {{ raise_exception('Only user and assistant roles are known!') }}
    {%- endif -%}
{%- endfor -%}"""

TOOL_USE = """{%- if tools is not none and tools %}
    {{- '<|system|>\\nTools:' }}
    {%- for tool in tools %}
        {{- '\\n' ~ tool | tojson }}
    {%- endfor %}
    {{- '\\n<|end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last_user=-1, found=false) %}
{%- for m in messages[::-1] %}
    {%- set i = messages | length - 1 - loop.index0 %}
    {%- if m.role == 'user' and not ns.found %}{% set ns.last_user = i %}{% set ns.found = true %}{% endif %}
{%- endfor %}
{%- for m in messages %}
    {%- set content = m.content if m.content is string else '' %}
    {%- if m.role == 'assistant' and '</think>' in content and loop.index0 < ns.last_user %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|' ~ m.role ~ '|>\\n' + content }}
    {%- if m.tool_calls is defined and m.tool_calls %}
        {%- for call in m.tool_calls %}
            {%- if call.function is defined %}{% set call = call.function %}{% endif %}
            {{- '\\n<call>{"name": "' + call.name + '", "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson(indent=2) }}
            {{- '}</call>' }}
        {%- endfor %}
    {%- endif %}
    {{- '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"""

MACROS = """{% macro show(name, spec, depth=0, sep=', ') -%}
{{ '  ' * depth }}{{ name }}: {% if spec.type == 'object' -%}
{ {%- for k, v in spec.properties.items() %}{{ '\\n' + show(k, v, depth + 1) }}{% if not loop.last %}{{ sep }}{% endif %}{% endfor %} }
{%- elif 'enum' in spec -%}
{{ spec.enum | join(' | ') }}
{%- else -%}
{{ spec.type | default('any') }}{% if spec.description %} // {{ spec.description }}{% endif %}
{%- endif %}
{%- endmacro %}
{% for t in tools or [] %}
type {{ show(t.function.name, t.function.parameters, sep=';') }}
{% else %}
no tools
{% endfor %}"""

CALL_BLOCK = """{% macro box(title, width=10) %}
[{{ title | center(width) }}]
{{ caller('arg') }}
[{{ varargs | length }}{{ kwargs | dictsort }}]
{% endmacro %}
{% call(x) box('hey', 9, 1, 2, z=3, a=4) %}
inside {{ x }}{% endcall %}
{% filter upper | replace('B', 'b') %}a{{ messages | length }}b{% endfilter %}

{% set block %}
 set {{ 1 + 1 }}
{% endset %}
<{{ block }}>{% set trimmed | trim | upper %}
   abc {% endset %}<{{ trimmed }}>
{% with a = 1, b = messages[0].role %}{{ a }}{{ b }}{% endwith %}[{{ a is defined }}]"""

LOOPS = """{% for m in messages if m.role != 'system' %}
{{ loop.index }}/{{ loop.length }} {{ loop.revindex }} {{ loop.revindex0 }} {{ loop.first }} {{ loop.last }} {{ loop.cycle('odd', 'even') }} {{ loop.changed(m.role) }} {{ loop.previtem.role if loop.previtem is defined else '-' }} {{ (loop.nextitem or {}).role }}
{% else %}
none
{% endfor %}
{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x > 5 %}{% break %}{% endif %}{{ x }},{% endfor %}
{% for a, b in [(1, 2), (3, 4)] %}{{ a * b }} {% endfor %}
{% for k in {'b': 1, 'a': 2} %}{{ k }}{% endfor %}
{% for c in 'héy' %}{{ c }}.{% endfor %}
{% for x in [] %}no{% else %}empty{% endfor %}
{% for x in missing %}no{% else %}undefined is empty{% endfor %}
{% for item in [{'n': 'a', 'kids': [{'n': 'b', 'kids': []}, {'n': 'c', 'kids': [{'n': 'd', 'kids': []}]}]}] recursive %}{{ item.n }}{{ loop.depth }}({{ loop(item.kids) }}){% endfor %}
{% set x = 'outer' %}{% for i in [1] %}{% set x = 'inner' %}{{ x }}{% endfor %}{{ x }}
{% for i in range(3) %}{% for j in range(3) %}{% if j == 1 %}{% break %}{% endif %}{{ i }}{{ j }} {% endfor %}{% endfor %}"""

SPACE = """A  {# comment #}
   {% if true %}
  B
   {%- if true +%}
  C
   {%+ if true -%}
  D
  {%- endif %}
   {% endif %}

   {% endif -%}

 E {{- ' F ' -}}   G
{% raw %}
  {{ not }} {% run %} {# this #}
{% endraw %}
  {%- raw -%}
   x   {{ y }}
  {%- endraw +%}
H {#- c -#}  I
\tJ {% set a = {'k': {'l': '}}'}} %}{{ a['k'].l }}{{ {'z': {}} }}
{# one #}{# two #}
{% generation %}answer{% endgeneration %}
end
"""

CASES = [
    ("chatml", CHATML, TALK, None, True, {}),
    ("chatml without system or prompt", CHATML, SHORT, None, False, {}),
    ("inst", INST, [TALK[0], *TALK[1:3], TALK[3]], None, False, {}),
    ("inst refuses two users", INST, [SHORT[0], SHORT[0]], None, False, {}),
    ("inst refuses a tool", INST, [SHORT[0], {"role": "tool", "content": ""}], None, False, {}),
    ("tool use", TOOL_USE, CALLS, TOOLS, True, {}),
    ("tool use without tools", TOOL_USE, CALLS[-2:], None, False, {}),
    ("macros", MACROS, SHORT, TOOLS, False, {}),
    ("macros without tools", MACROS, SHORT, None, False, {}),
    ("call, filter, set and with blocks", CALL_BLOCK, TALK, None, False, {}),
    ("loops", LOOPS, TALK, None, False, {}),
    ("loops over nothing", LOOPS, [], None, False, {}),
    ("white space", SPACE, TALK, None, False, {}),
    ("line ends", "a\r\nb\r{% if true %}\r\nc{% endif %}\n{{ 'x\r\ny' }}\n", SHORT, None, False, {}),
    ("parts", "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{% if p.type == 'image' %}<image>{% elif 'text' in p %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}", PARTS, None, False, {}),
    ("variables of the request", "{{ enable_thinking }} {{ level | default('none') }} {% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>{% endif %}", SHORT, None, True, {"enable_thinking": False}),
    ("a macro sees what is set later", "{% set a = 1 %}{% macro m() %}{{ a }}{{ b }}{% endmacro %}{% set a = 2 %}{% set b = 3 %}{{ m() }}", SHORT, None, False, {}),
    ("namespace from a dict", "{% set n = namespace({'a': 1}, b=[2]) %}{% set n.c = n.a + n.b[0] %}{{ n.a }}{{ n.b }}{{ n.c }}{{ n.d is defined }}", SHORT, None, False, {}),
    ("numbers in the messages", "{{ messages[0].n }} {{ messages[0].f }} {{ messages | tojson }}", [{"n": 12345678901234, "f": 1e300, "g": 0.1, "h": [1.0, -0.0, 1e-7, 123456789.125], "i": True, "j": None, "k": "\u2028\u0007\\\"é"}], None, False, {}),
    ("break in an else", "{% for i in [1,2,3] %}{% for j in [] %}{% else %}{% break %}{% endfor %}{{ i }}{% endfor %}", SHORT, None, False, {}),
]

EXPRESSIONS = r"""1 + 2 * 3 - 4 / 2
7 // 2, -7 // 2, 7 % 3, -7 % 3, 7 % -3, 7.5 % 2, -7.5 // 2
2 ** 10, 2 ** -1, 2 ** 0.5, (-2) ** 3, -2 ** 2
1 / 3, 10 / 5, 1e16, 1e15, 123456789012345680.0, 1e-5, 0.0001, 1.5e300, 0.1 + 0.2, 100.0, -0.0
1_000, 1_0.5, 1e3, 0.5e-7, 12E2
'a' 'b' "c", 'it\'s', "q\"q", 'é\u00e9\x41\n\t\101\d'
'a' ~ 1 ~ none ~ true ~ [1, 'x'] ~ {'k': 1.0}
[1, 'two', none, true, 3.0, (1,), (), {}, {'a': [1]}, "it's", 'q"', 'both\'"', 'new\nline', 'tab\t', '\x00\x7f', 'é', '\u200b']
1 == 1.0, 1 == true, 'a' == 'a', [1] == [1.0], [1] == (1,), {'a': 1} == {'a': 1}, none == false, missing == missing2, '1' == 1
1 < 2 < 3, 1 < 3 < 2, 3 > 2 >= 2, 'a' < 'b', [1, 2] < [1, 3], 'é' > 'z', 'a' < 'B'
'a' in 'cat', 'x' not in 'cat', 1 in [1, 2], 'k' in {'k': 1}, '' in '', 1 in (), 'v' in {'k': 'v'}
not true, not '', not [], not 0, not none, not missing, true and 'x', '' or 'y', 0 or none, 1 and 0
'yes' if messages else 'no', ('x' if false) is defined, 1 if 0 else 2 if 0 else 3
messages[0].role, messages[0]['role'], messages[-1].content, messages.0.role, messages[9] is defined, messages[0].nope is defined
'hello'[1], 'hello'[-1], 'hello'[1:3], 'hello'[::-1], 'hello'[::2], 'hello'[-3:], 'héllo'[1:2], 'abc'[5:], 'abc'[:-5], 'hello'[9] is defined
[1, 2, 3, 4][1:], [1, 2, 3, 4][::-1], [1, 2, 3, 4][:-1], [1, 2, 3, 4][::2], [1, 2, 3][5:], (1, 2, 3)[1:], [1, 2, 3][-2:5:1], [1, 2, 3][10::-2], [][::-1]
{'a': 1}['a'], {'a': 1}.a, {'items': 5}['items'], {'a': 1, 'a': 2}, {1: 'x'}[1], {'a': {'b': {'c': 7}}}.a.b.c, {(1, 2): 3}
missing, missing | default('d'), missing is defined, missing is undefined, none | default('d'), none | default('d', true), '' | d('e', boolean=true)
' a b '.strip() ~ '|', 'xxaxx'.strip('x'), '  a'.lstrip() ~ '|', 'a\n\n'.rstrip('\n') ~ '|', 'abcabc'.strip('cba'), '\u3000a\u00a0'.strip() ~ '|'
'a,b,,c'.split(','), ' a  b '.split(), 'a b c'.split(' ', 1), 'a  b  c '.split(none, 1), 'abc'.split('x'), ''.split(), ''.split(','), 'a b c'.split(maxsplit=1)
'a,b,c'.rsplit(',', 1), 'a b  c'.rsplit(none, 1), 'a'.rsplit(','), 'a\nb\r\nc\n'.splitlines(), 'a\nb'.splitlines(true), 'a=b=c'.partition('='), 'a=b=c'.rpartition('='), 'abc'.partition('x')
'hello'.startswith('he'), 'hello'.endswith(('x', 'lo')), 'hello'.find('l'), 'hello'.rfind('l'), 'hello'.find('z'), 'hello'.index('e'), 'hello'.count('l'), 'héllo'.find('l')
'aXbX'.replace('X', '--'), 'aaa'.replace('a', 'b', 2), 'abc'.replace('', '-'), 'hello world'.title(), "it's".title(), 'hELLO'.capitalize(), 'aB'.swapcase(), 'ÀÉ'.lower(), 'straße'.upper() | length > 0
'abc'.isalpha(), '12'.isdigit(), 'a1'.isalnum(), ' '.isspace(), 'AB'.isupper(), 'ab'.islower(), ''.isalpha(), 'a b'.isalpha(), 'A1'.isupper(), '1'.isupper()
', '.join(['a', 'b']), ''.join([]), 'ab'.join('xyz'), 'a'.ljust(4, '.'), 'a'.rjust(4), 'ab'.center(5, '*'), 'ab'.center(7), '-7'.zfill(4), 'x'.zfill(3), 'unhappy'.removeprefix('un'), 'a.py'.removesuffix('.py')
'{} and {}'.format('a', 2), '{0}{1}{0}'.format('a', 'b'), '{x} {y!r}'.format(x=1, y='s'), '{:>5}|{:<5}|{:^5}|{:*^7}'.format('a', 'b', 'c', 'd'), '{:05d} {:+d} {:,} {:.2f} {:x} {:8.3f}|'.format(42, 7, 1234567, 3.14159, 255, 2.5), '{{}} {}'.format(1.0), '{0[0]} {1.role}'.format([5], messages[0]), '{:%}'.format(0.25), '{:3}|{:<3}|'.format(7, 7)
'%s is %d, %.2f %5s|%-5s| %05d %x %%' % ('a', 3, 2.5, 'b', 'c', 42, 255), '%s' % 'x', '%r' % 'x', '%(a)s' % {'a': 1}, 'no' % (), '%+d' % 5
{'a': 1}.get('a'), {'a': 1}.get('b'), {'a': 1}.get('b', 2), {'a': 1, 'b': 2}.keys() | list, {'a': 1, 'b': 2}.values() | list, {'a': 1, 'b': 2}.items() | list, messages[0].get('role'), [1, 2, 1].count(1), [1, 2].index(2)
'  x ' | trim ~ '|', 'xax' | trim('x'), 'AbC' | lower, 'AbC' | upper, 'abC d' | capitalize, "it's a-test (x)" | replace('a', 'b'), 'abc' | replace('b', '', 1), 'ab' | center(6) ~ '|'
[3, 1, 2] | sort, ['b', 'A', 'c'] | sort, ['b', 'A', 'c'] | sort(case_sensitive=true), [3, 1, 2] | sort(reverse=true), messages | sort(attribute='role') | map(attribute='role') | list, [[2, 'b'], [1, 'z']] | sort(attribute=0)
{'b': 1, 'A': 2, 'c': 0} | dictsort, {'b': 1, 'a': 2} | dictsort(by='value'), {'b': 1, 'a': 2} | dictsort(reverse=true), {'b': 1, 'a': 2} | items | list
[1, 2, 3] | first, [1, 2, 3] | last, [] | first is defined, 'abc' | first, 'abc' | last, [1, 2, 3] | length, 'héé' | length, {'a': 1} | count, [1, 2] | reverse | list, 'abc' | reverse
['a', 'b'] | join, ['a', 1, none] | join('-'), messages | join(', ', attribute='role'), [1, 2, 3] | sum, messages | map(attribute='content') | map('length') | sum, [[1], [2]] | sum(start=[]), [3, 1, 2] | min, [3, 1, 2] | max, ['b', 'A'] | min
[1, 2, 2, 1, 3] | unique | list, ['a', 'A', 'b'] | unique | list, [1, 2, 3, 4, 5] | batch(2) | list, [1, 2, 3] | batch(2, 'x') | list, 'abc' | list, {'a': 1} | list, (1, 2) | list
messages | selectattr('role', 'equalto', 'user') | list | length, messages | rejectattr('role', 'in', ['user', 'system']) | map(attribute='role') | list, [0, 1, '', 'a', none] | select | list, [1, 2, 3, 4] | select('even') | list, [1, 2, 3, 4] | reject('gt', 2) | list, messages | selectattr('nope') | list, messages | selectattr('nope', 'defined') | list
['a', 'B'] | map('upper') | list, [' a '] | map('trim') | list, messages | map(attribute='nope', default='-') | list, ['1', '2'] | map('int') | sum, [1.256, 2.5] | map('round', 1) | list
3.7 | int, '42' | int, 'x' | int, 'x' | int(5), '0x1f' | int(0, 16), '3.9' | int, '1.5' | float, 'x' | float, 3 | float, true | int, -3 | abs, 2.567 | round(2), 2.5 | round, 3.5 | round, 2.1 | round(0, 'ceil'), 2.9 | round(method='floor'), 42 | round, 1234.5 | round(-2)
1 is number, 1 is integer, 1.0 is float, true is number, true is boolean, true is integer, 'a' is string, [] is sequence, {} is mapping, {} is sequence, 'a' is iterable, 1 is iterable, none is none, messages is iterable, range is callable, 3 is odd, 4 is even, 9 is divisibleby 3, 9 is divisibleby(2)
1 is eq 1, 1 is ne(2), 1 is lt 2, 2 is ge 2, 'a' is in ['a'], 'a' is in('abc'), 1 is sameas true, none is sameas none, 'A' is upper, 'a' is lower, 1 is not string, missing is not defined, true is true, 1 is true, false is false, 'trim' is filter, 'nope' is test
{'a': [1, 2.0, none, true], 'é': 'x"\n'} | tojson, 'é<>&\'' | tojson, {'b': 1, 'a': 2} | tojson(sort_keys=true), 'é👍' | tojson(ensure_ascii=true), {'a': 1} | tojson(separators=(',', ':')), [] | tojson, {} | tojson(indent=2), {1: 2, none: 3, true: 4} | tojson
{'a': [1, {'b': []}], 'c': {}} | tojson(indent=4)
tools | tojson(indent=2), [1, [2, 3]] | tojson(indent=0)
'a\nb\n\nc' | indent, 'a\nb' | indent(2, true), 'a\n\nb' | indent(2, blank=true), 'a\nb\n' | indent('> '), '' | indent(first=true) ~ '|'
'one two three' | wordcount, 'foo bar baz qux' | truncate(9), 'foo bar baz qux' | truncate(9, true), 'foo bar' | truncate(11), 'foo bar baz qux' | truncate(11, false, '..', 0), 'a b/ü&' | urlencode, 5 | string + 'x', '%s-%s' | format(1, 'b')
'<a href="x">\'&' | escape
'<b>' | e
'<i>' | safe
' a ' | trim | safe
'<a>'|safe + '<b>' + ('<c>' | e) ~ '<d>'
'<a>' + '<b>'|safe
'<a>' | e | e
'<a>' | e | forceescape
none | selectattr('a') | list, none | map('upper') | list, '' | select | list, 0 | reject('odd') | list
range(5) | list, range(2, 5) | list, range(5, 0, -2) | list, range(0) | list, dict(a=1, b=2), dict({'x': 1}, y=2), dict([('a', 1)])
(1, 2) + (3,), [1] + [2], 'ab' * 3, [0] * 3, 3 * 'x', 'x' * -1, 'a' + 'b' * 2, true + true, -true, +5, - 5 | abs
loop is defined, namespace(a=1).a, messages | length > 3 and messages[0].role == 'system', (messages | last).content[:6], messages[1:] | map(attribute='role') | join(' ')
[1, 2, 3,], {'a': 1,}, (1,), [[]], {'a': none}.a is none, [true, false, True, False, none, None], 'x' if messages[0].nope else 'y', (1, 2) | tojson
"a\
b", 'tab\\n', '\'', 'a#{b}', '{{ x }}', '%}', "}}"
'a-b_c'.upper().lower().split('-')[1][0], ('a' ~ 'b') | upper, -1 | abs, 'x' is string and 'y' is string, not 'a' in 'b', 1 + 1 == 2 and 'ok'
*[1]
messages.append(1)
messages[0].pop('role')
missing.x
missing()
missing + 'a'
'a' + 1
1 < 'a'
[1] | sort(attribute='x.y')
1 / 0
1 % 0
none | length
'a' | nofilter
'a' is notest
raise_exception('stop')
{}.x.y
'abc'.nope()
messages[0].content.format
{'a': missing} | tojson
'{} {}'.format(1)
'%d' % 'x'
'%s %s' % ('a',)
''.split('')
[1, 'a'] | sort
{[1]: 2}
range(1000000)
dict(1)
1 in 5
int('5')
trim(' x ')
9999999999999999999999
""".strip("\n").split("\n")

# int64 is our range of integers, Python's has no end; these lines are ours to refuse or ours alone
OURS = {"9999999999999999999999", "messages[0].content.format"}


def render(env, source, messages, tools, add, extra):
    return env.from_string(source).render(messages=messages, tools=tools, documents=None, add_generation_prompt=add, bos_token="<s>", eos_token="</s>", **extra)


def outcome(env, *args):
    try:
        return {"want": render(env, *args)}
    except Exception as e:
        return {"error": f"{type(e).__name__}: {e}"[:120]}


def main():
    env, lines, merged = environment(), [], ""
    for line in EXPRESSIONS:  # a line that ends in a backslash goes on
        merged += line
        if line.endswith("\\"):
            merged += "\n"
            continue
        lines.append(merged)
        merged = ""
    cases = [{"name": n, "template": t, "messages": m, "tools": tools, "add_generation_prompt": add, "extra": x, **outcome(env, t, m, tools, add, x)}
             for n, t, m, tools, add, x in CASES]
    exprs = [{"expr": x, **outcome(env, "{{ " + x + " }}", TALK, TOOLS, False, {})} for x in lines if x not in OURS]
    for c in cases + exprs:
        if "error" in c:
            print("fails:", c.get("name", c.get("expr")), "|", c["error"], file=sys.stderr)
    with open(sys.argv[1], "w") as f:
        json.dump({"cases": cases, "messages": TALK, "tools": TOOLS, "expressions": exprs}, f, ensure_ascii=False, indent=1)
        f.write("\n")


main()
