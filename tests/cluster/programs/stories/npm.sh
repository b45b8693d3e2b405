#: what    npm install of a few packages with links in .bin and scripts, run, npm ci, prune
#: needs   npm node
#: limit   400
mkdir app && cd app
cat > package.json <<'M'
{"name": "app", "version": "1.0.0", "scripts": {"prepare": "echo prepared > prepared", "hello": "semver 1.2.3 && rimraf gone && mkdirp a/b/c"}, "dependencies": {"semver": "7.6.0", "rimraf": "5.0.5", "mkdirp": "3.0.1"}}
M
npm install --no-audit --no-fund --loglevel=error > /dev/null && cat prepared && ls node_modules | sort && ls -l node_modules/.bin | awk 'NR > 1 {print $1, $9, $10, $11}' 
mkdir gone && npm run -s hello && ls && find a && node -e 'console.log(require("semver").gt("2.0.0", "1.0.0"))'
find node_modules -type f | wc -l && npm ci --no-audit --no-fund --loglevel=error > /dev/null && npm ls 2>&1 | tail -n +2 && npm uninstall -s rimraf > /dev/null && ls node_modules/.bin
cd .. && rm -rf app && ls
