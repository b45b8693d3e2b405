#: what    make -j4 of a C and C++ project of 40 files: everything, nothing, what one header or one file needs; ar, ld, gdb's debug info, ccache-like links
#: needs   gcc g++ make ar
. "$STORIES/_lib.sh"
mkdir -p src include
for i in $(seq 30); do
    echo "int c$i(int); " > "include/c$i.h"
    printf '#include "c%s.h"\n#include "common.h"\nint c%s(int x) { return x * %s + COMMON; }\n' "$i" "$i" "$i" > "src/c$i.c"
done
echo '#define COMMON 1' > include/common.h
for i in 1 2 3 4; do printf '#include <vector>\n#include <string>\n#include "common.h"\nint p%s() { std::vector<std::string> v(%s, "x"); return (int)v.size() + COMMON; }\n' "$i" "$i" > "src/p$i.cc"; done
{ for i in $(seq 30); do echo "extern \"C\" int c$i(int);"; done; for i in 1 2 3 4; do echo "int p$i();"; done
  echo '#include <cstdio>'; echo 'int main() { int s = 0;'; for i in $(seq 30); do echo "s += c$i($i);"; done; for i in 1 2 3 4; do echo "s += p$i();"; done; echo 'printf("%d\n", s); }'; } > src/main.cc
cat > Makefile <<'M'
C := $(patsubst src/%.c,obj/%.o,$(wildcard src/*.c))
P := $(patsubst src/%.cc,obj/%.o,$(wildcard src/p*.cc))
CFLAGS = -O1 -g -Iinclude -MMD -MP
CXXFLAGS = $(CFLAGS)
app: obj/main.o $(P) libc.a
	g++ -g -o $@ $^ && echo linked
libc.a: $(C)
	ar rcsD $@ $(C) && echo archived
obj/%.o: src/%.c | obj
	gcc $(CFLAGS) -c -o $@ $< && echo compiled $<
obj/%.o: src/%.cc | obj
	g++ $(CXXFLAGS) -c -o $@ $< && echo compiled $<
obj:
	mkdir obj
-include $(wildcard obj/*.d)
M
make -s -j4 2>&1 | sort && ./app
echo "nothing:" && make -s -j4 && make -q && echo up to date
sleep 0.02 && touch src/c7.c && echo "one:" && make -s -j4 && make -q
sleep 0.02 && touch include/c9.h && echo "a header:" && make -s -j4 && make -q
sleep 0.02 && echo '#define COMMON 2' > include/common.h && make -s -j4 | wc -l && ./app && make -q
ar t libc.a | sort | sha256sum && nm libc.a | grep -c ' T c' && strip -o stripped app && ./stripped
gcc -shared -fPIC -Iinclude -o libx.so src/c1.c src/c2.c && printf 'int c1(int); int main() { return c1(2) != 4; }' > t.c && gcc t.c -L. -lx -Wl,-rpath,. -o t && ./t && echo shared
cp app app.old && ./app.old && (./app > /dev/null & wait) && (sleep 0 ; rm app) && make -s && ./app
cp stripped busy && (exec 3< busy; ./busy) && ls
